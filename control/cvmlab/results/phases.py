# SPDX-License-Identifier: GPL-2.0-or-later
"""Cut a journal into boot phases and count what happened in each.  Pure.

The plugin writes a PHASE record when a phase begins.  A guest that reboots goes through the phases
again: they are listed again, in order.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cvmlab.memory.counting import amounts
from cvmlab.memory.measures import MEASURES, Measures
from cvmlab.memory.records import Kind, Phase
from cvmlab.results.counts import phase_counters_type
from cvmlab.results.result import PhaseResult


Records = npt.NDArray[np.void]
_NS = 1e9


def phases(
    records: Records, *, end_htime_ns: int | None = None, measures: Measures = MEASURES
) -> tuple[PhaseResult, ...]:
    """Return the phases of *records* (dtype RECORD, in order of seq).

    *end_htime_ns* is when the guest stopped, on the host's CLOCK_MONOTONIC, if that was after the
    last record: the guest's clock is assumed to have run with the host's until then.
    """
    if not len(records):
        return ()
    names, starts = _marks(records)
    last_vtime, last_htime = int(records["vtime_ns"][-1]), int(records["htime_ns"][-1])
    rest = max((end_htime_ns or 0) - last_htime, 0)
    vtimes = [*records["vtime_ns"][starts].tolist(), last_vtime + rest]
    htimes = [*records["htime_ns"][starts].tolist(), last_htime + rest]
    counters = phase_counters_type(measures)
    return tuple(
        PhaseResult(
            name=name,
            seconds=_seconds(*guest),
            host_seconds=_seconds(*host),
            counters=counters(**counts),
        )
        for name, guest, host, counts in zip(
            names, pairwise(vtimes), pairwise(htimes), _counts(records, starts, measures),
            strict=True,
        )
    )  # fmt: skip


def _counts(records: Records, starts: list[int], measures: Measures) -> Iterator[dict[str, int]]:
    """Yield the counts of each phase; *starts* are the indexes of their first records."""
    sums = {
        row.name: np.add.reduceat(added, starts).tolist()
        for row, added in amounts(records, measures.per_phase)
    }
    for number in range(len(starts)):
        yield {name: counts[number] for name, counts in sums.items()}


def _marks(records: Records) -> tuple[list[str], list[int]]:
    """Return the name of each phase and the index of its first record."""
    starts = np.flatnonzero(records["kind"] == Kind.PHASE).tolist()
    names = [Phase(int(records["flags"][start])).word for start in starts]
    if not starts or starts[0] > 0:
        # Records before the first mark: the launch image is being placed.
        starts, names = [0, *starts], [Phase.LAUNCH.word, *names]
    return names, starts


def by_phase(records: Records) -> Iterator[tuple[str, slice]]:
    """Yield each phase's name and the part of *records* it is; a reboot repeats phases."""
    if len(records):
        names, starts = _marks(records)
        for name, (first, end) in zip(names, pairwise([*starts, len(records)]), strict=True):
            yield name, slice(first, end)


def _seconds(start_ns: int, end_ns: int) -> float:
    # A reset may set the guest's clock back.
    return round(max(end_ns - start_ns, 0) / _NS, 6)


def first_rip(records: Records, phase: Phase) -> int | None:
    """Return the guest instruction that began *phase*, if the plugin recorded it."""
    marks = records[(records["kind"] == Kind.PHASE) & (records["flags"] == phase)]
    return int(marks["rip"][0]) or None if len(marks) else None
