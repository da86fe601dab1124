# SPDX-License-Identifier: GPL-2.0-or-later
"""`cvmlab test`: everything tests need, then tox, which runs them.  Needs a checkout."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence

from cvmlab import apt
from cvmlab.build import qemu_binary, rom_dirs, stock_qemu_binary
from cvmlab.errors import ConfigError
from cvmlab.paths import checkout_dir


def main(arguments: Sequence[str]) -> int:
    """Run tox with ``arguments`` and return its exit code.

    Without arguments all environments run, so QEMU is built first, patched and not, here, where
    progress can be seen.
    """
    root = checkout_dir()
    if root is None:
        raise ConfigError("tests run from a checkout only", hint="clone the repository")
    if importlib.util.find_spec("tox") is None:
        raise ConfigError("tox is not installed", hint="run ./cvmlab test, which installs it")
    apt.ensure([apt.Need.BUILD, apt.Need.TEST, apt.Need.DISK, apt.Need.FOLDER])
    if not arguments:
        qemu_binary()
        stock_qemu_binary()
        rom_dirs()
    tox = [sys.executable, "-m", "tox", "run", "-c", os.fspath(root / "tox.ini"), *arguments]
    return subprocess.run(tox, check=False).returncode
