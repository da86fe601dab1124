# SPDX-License-Identifier: GPL-2.0-or-later
"""The page states of a dump, as they are kept beside it, for numpy."""

from pathlib import Path

import numpy as np

from cvmlab.base.errors import ImageError
from cvmlab.dump.notes import PageStates
from cvmlab.memory.ranges import Slot


_SUFFIX = ".pages.npz"


def sidecar_of(dump: Path) -> Path:
    """Return the file beside *dump* with the state of each page."""
    return dump.with_name(dump.name + _SUFFIX)


def save_states(path: Path, states: PageStates) -> None:
    """Write *path*: arrays ``states`` (a byte a page, see cvmlab.memory.states), ``slots`` (rows of
    guest physical address, offset in the table in bytes of memory, size), ``alias_bit`` and
    ``has_private``.  Raise OSError."""
    slots = np.array([(slot.gpa, slot.offset, slot.size) for slot in states.slots], np.uint64)
    with path.open("wb") as out:
        np.savez_compressed(
            out,
            states=states.table,
            slots=slots.reshape(-1, 3),
            alias_bit=np.uint64(states.alias_bit),
            has_private=np.bool_(states.has_private),
        )


def load_states(dump: Path) -> PageStates:
    """Read what is beside *dump*; raise ImageError if it cannot be read."""
    path = sidecar_of(dump)
    try:
        with np.load(path) as saved:
            slots = tuple(Slot(*row) for row in saved["slots"].tolist())
            return PageStates(
                slots, saved["states"], int(saved["alias_bit"]), bool(saved["has_private"])
            )
    except (OSError, ValueError, KeyError) as error:
        raise ImageError(f"the page states {path} cannot be read: {error}") from error


def alias_bit_of(dump: Path) -> int:
    """Return the bit of addresses in page tables that is no part of the address; 0 if unknown."""
    try:
        return load_states(dump).alias_bit
    except ImageError:
        return 0
