# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the files are that belong to the package but are not Python."""

from collections.abc import Iterable
from pathlib import Path

from cvmlab.errors import InvariantError


_MARK = Path("core", "transitions.toml")


def first_with_plugin(candidates: Iterable[Path]) -> Path:
    """Return the first folder that holds the plugin's sources; raise InvariantError."""
    tried = list(candidates)
    for folder in tried:
        if (folder / _MARK).is_file():
            return folder
    raise InvariantError(
        f"the plugin's sources are not in {' or '.join(map(str, tried))}",
        hint="install cvmlab again, or run it from its repository",
    )


def bundle_dir() -> Path | None:
    """Return the folder of the QEMU and the firmware that this package carries, if it does."""
    folder = Path(__file__).resolve().parent / "_bundle"
    return folder if (folder / "build.json").is_file() else None


def plugin_dir() -> Path:
    """Return the folder of the plugin's sources: in the installed package, or the repository."""
    package = Path(__file__).resolve().parent
    return first_with_plugin([package / "_plugin", package.parent.parent / "plugin"])
