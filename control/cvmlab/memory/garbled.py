# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of a journal that no QEMU has written: whoever has the file may have changed it.  Pure."""

import numpy as np
from numpy.typing import NDArray

from cvmlab.memory.records import Actor, Kind, Phase, Verdict
from cvmlab.memory.states import PageState, RefusalCode


# Fields whose numbers have names, and how many they are.  A slot of kind 0 was never written.
_NAMED = {
    "kind": len(Kind),
    "actor": len(Actor),
    "from": len(PageState),
    "to": len(PageState),
    "verdict": len(Verdict),
    "refusal": len(RefusalCode),
}


def garbled(records: NDArray[np.void]) -> NDArray[np.bool_]:
    """Tell of each record whether it is one."""
    wrong: NDArray[np.bool_] = records["kind"] == Kind.NONE
    for field, known in _NAMED.items():
        wrong |= records[field] >= known
    wrong |= (records["kind"] == Kind.PHASE) & (records["flags"] >= len(Phase))
    return wrong


def garbled_by(record: np.void) -> str:
    """Return what is wrong with a record that is one, to go after "record 7"."""
    if record["kind"] in (Kind.NONE, *range(len(Kind), 256)):
        return f"is of unknown kind {record['kind']}"
    for field, known in _NAMED.items():
        if record[field] >= known:
            return f"has the unknown number {record[field]} as its {field}"
    return f"begins the unknown phase {record['flags']}"
