# SPDX-License-Identifier: GPL-2.0-or-later
"""Which QEMU runs a VM: the one that was named, or the one that cvmlab has built."""

import os
import shutil
from pathlib import Path

from cvmlab.base.errors import ConfigError
from cvmlab.profiles.architecture import DEFAULT_ARCHITECTURE, Architecture


def locate_qemu(
    chosen: Path | None,
    version: str | None = None,
    architecture: Architecture = DEFAULT_ARCHITECTURE,
) -> Path:
    """Return *chosen*, or what `cvmlab build` made of *version*, or the one that a variable names.

    Without these, it is the default version for *architecture*.
    """
    variable = os.environ.get(architecture.qemu_variable)
    named = chosen or (variable if version is None else None)
    if named is None:
        from cvmlab.qemu.build import qemu_binary

        return qemu_binary(version, architecture)
    found = shutil.which(named)
    if found is None:
        raise ConfigError(f"{named} is not a program", hint="run `cvmlab build`")
    return Path(found)
