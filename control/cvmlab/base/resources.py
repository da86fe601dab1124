# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of the package that are not Python: the plugin's sources, guest images, the bundled QEMU."""

from collections.abc import Iterable
from pathlib import Path

from cvmlab.base.errors import InvariantError
from cvmlab.base.paths import PACKAGE


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
    """Return the folder of the bundled QEMU and firmware, or None if this package has none."""
    folder = PACKAGE / "_bundle"
    return folder if (folder / "build.json").is_file() else None


def plugin_dir() -> Path:
    """Return the folder of the plugin's sources: in the installed package, or the repository."""
    return first_with_plugin([PACKAGE / "_plugin", PACKAGE.parents[1] / "plugin"])


def guest_images_dir() -> Path:
    """Return the folder with recipes and scripts: in the installed package, or the repository."""
    for folder in (PACKAGE / "_guest_images", PACKAGE.parents[1] / "guest-images"):
        if (folder / "images.toml").is_file():
            return folder
    raise InvariantError(
        "the guest image recipes are not installed with cvmlab",
        hint="install cvmlab again, or run it from its repository",
    )
