# SPDX-License-Identifier: GPL-2.0-or-later
"""Cut a journal into boot phases and count what happened in each.  Pure.

The plugin writes a PHASE record when one begins.  A guest that reboots goes through them again:
they are listed again, in order.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cvmlab.records import Kind
from cvmlab.records import Phase as PhaseName
from cvmlab.result import Phase, PhaseCounters
from cvmlab.states import PageState


Records = npt.NDArray[np.void]
_NS = 1e9


def phases(records: Records, *, end_htime_ns: int | None = None) -> tuple[Phase, ...]:
    """Return the phases of *records* (dtype RECORD, in order of seq).

    *end_htime_ns* is when the guest stopped, on the host's CLOCK_MONOTONIC, if that was after the
    last record: the guest's clock is taken to have run with the host's until then.
    """
    if not len(records):
        return ()
    names, starts = _marks(records)
    last_vtime, last_htime = int(records["vtime_ns"][-1]), int(records["htime_ns"][-1])
    rest = max((end_htime_ns or 0) - last_htime, 0)
    vtimes = [*records["vtime_ns"][starts].tolist(), last_vtime + rest]
    htimes = [*records["htime_ns"][starts].tolist(), last_htime + rest]
    return tuple(
        Phase(
            name=name,
            seconds=_seconds(*guest),
            host_seconds=_seconds(*host),
            counters=count(records[first:end]),
        )
        for name, (first, end), guest, host in zip(
            names, pairwise([*starts, len(records)]), pairwise(vtimes), pairwise(htimes),
            strict=True,
        )
    )  # fmt: skip


def _marks(records: Records) -> tuple[list[str], list[int]]:
    """Return the name of each phase and the index of its first record."""
    starts = np.flatnonzero(records["kind"] == Kind.PHASE).tolist()
    names = [PhaseName(int(records["flags"][start])).word for start in starts]
    if not starts or starts[0] > 0:
        # Records before the first mark: the launch image is being placed.
        starts, names = [0, *starts], [PhaseName.LAUNCH.word, *names]
    return names, starts


def by_phase(records: Records) -> Iterator[tuple[str, Records]]:
    """Yield each phase's name and records, in order; a phase comes again after a reboot."""
    if len(records):
        names, starts = _marks(records)
        for name, (first, end) in zip(names, pairwise([*starts, len(records)]), strict=True):
            yield name, records[first:end]


def _seconds(start_ns: int, end_ns: int) -> float:
    # A reset may set the guest's clock back.
    return round(max(end_ns - start_ns, 0) / _NS, 6)


def chosen(records: Records) -> Mapping[str, npt.NDArray[np.bool_]]:
    """Return which of *records* change pages, by the name of the counter they count for."""
    kind, after = records["kind"], records["to"]
    changed = records["from"] != after
    converted = (kind == Kind.CONVERT) & changed
    shared = after == PageState.SHARED
    return {
        "accepted": (kind == Kind.ACCEPT) & changed,
        "to_shared": converted & shared,
        "to_private": converted & ~shared,
    }


def count(records: Records) -> PhaseCounters:
    """Count the pages and faults of *records*, as the plugin's own counters do."""
    pages = {name: _pages(records, which) for name, which in chosen(records).items()}
    faults = int(np.count_nonzero(records["kind"] == Kind.HOST_FAULT))
    return PhaseCounters(**pages, host_faults=faults)


def _pages(records: Records, chosen: npt.NDArray[np.bool_]) -> int:
    return int(records["pages"][chosen].sum(dtype=np.int64))


def first_rip(records: Records, phase: PhaseName) -> int | None:
    """Return the guest instruction that began *phase*, if the plugin recorded it."""
    marks = records[(records["kind"] == Kind.PHASE) & (records["flags"] == phase)]
    return int(marks["rip"][0]) or None if len(marks) else None
