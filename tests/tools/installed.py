# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs these tests need and no user does: installed by apt when root, else asked for."""

import os
import shutil
import subprocess

import pytest


_INSTALL_TIMEOUT_S = 600


def require(program: str, package: str) -> str:
    """Return the path of *program*, having installed *package* if need be; skip the test if not."""
    found = _find(program)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        subprocess.run(
            ["apt-get", "install", "-qq", "-y", "--no-install-recommends", package],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_INSTALL_TIMEOUT_S,
        )
        found = _find(program)
    if found is None:
        pytest.skip(f"no {program}: install the package {package}")
    return found


def _find(program: str) -> str | None:
    # Daemons are not on everybody's PATH.
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
