# SPDX-License-Identifier: GPL-2.0-or-later
"""Where snapshots are kept by name: ``$XDG_STATE_HOME/cvmlab/snapshots``; and warm boots by key."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from cvmlab.base.errors import ConfigError
from cvmlab.base.paths import cache_dir
from cvmlab.snapshots.manifest import MANIFEST
from cvmlab.snapshots.snapshot_folder import remove_leftovers


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def snapshots_dir() -> Path:
    """Return the folder of the snapshots that have names."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "cvmlab" / "snapshots"


def warm_dir() -> Path:
    """Return the folder of the snapshots that warm boots start from."""
    return cache_dir() / "warm"


def place_of(name: str) -> Path:
    """Return the folder of snapshot *name*, or *name* itself if it is a path; raise ConfigError."""
    if "/" in name:
        return Path(name).absolute()
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is not a name for a snapshot",
            hint="use letters, digits, -, _ and ., or a path with a / in it",
        )
    return snapshots_dir() / name


def require_free(place: Path) -> None:
    """Raise ConfigError if there is something at *place* already."""
    if os.path.lexists(place):
        raise ConfigError(
            f"there is a snapshot {place.name} already"
            if (place / MANIFEST).exists()
            else f"{place} exists, and is no snapshot",
            hint="choose another name",
        )


def listed(folder: Path | None = None) -> Iterator[Path]:
    """Yield the folders of all snapshots with names, sorted by name."""
    parent = folder or snapshots_dir()
    if parent.is_dir():
        remove_leftovers(parent)
        yield from sorted(path.parent for path in parent.glob(f"[!.]*/{MANIFEST}"))


def remove(name: str) -> Path:
    """Remove snapshot *name*, or the one at that path; raise ConfigError if there is none."""
    place = place_of(name)
    if place.is_symlink():
        raise ConfigError(f"{place} is a link to a snapshot", hint=f"rm {place}")
    if not (place / MANIFEST).is_file():
        raise ConfigError(f"there is no snapshot {name}", hint="`cvmlab snapshot list` lists them")
    try:
        # Without its manifest it is no snapshot any more, whatever comes.
        (place / MANIFEST).unlink()
        shutil.rmtree(place)
    except OSError as error:
        raise ConfigError(f"{place} cannot be removed: {error.strerror}") from error
    return place
