# SPDX-License-Identifier: GPL-2.0-or-later
"""What a rewind has undone counts nowhere, and stays in the file."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.memory.counting import RunningCount, count
from cvmlab.memory.journal import Journal, JournalFile, Ring
from cvmlab.memory.measures import MEASURES
from cvmlab.memory.ranges import PAGE_SIZE, Slot
from cvmlab.memory.records import RECORD, Kind, describe, pieces, standing
from cvmlab.memory.replay import replay
from cvmlab.memory.states import STATE_MASK, Layout, PageState, profiles
from tests.unit.memory.test_journal import CAPACITY, Producer


ROWS = tuple(row for row in MEASURES if row.rule is not None)
ACCEPT, CHECKPOINT, REWIND = Kind.ACCEPT, Kind.CHECKPOINT, Kind.REWIND


def journal(*said: tuple[Kind, int]) -> NDArray[np.void]:
    """Return records of a kind each, with the page that is accepted, or where a rewind goes."""
    records = np.zeros(len(said), RECORD)
    for index, (kind, value) in enumerate(said):
        row = records[index]
        row["seq"], row["kind"], row["pages"], row["to"] = index + 1, kind, 1, PageState.PRIVATE
        row["gpa"] = value * PAGE_SIZE if kind is ACCEPT else value
    return records


# Page 1 stays, 2 is undone twice, 3 and 4 are undone together by the later rewind, 5 comes after it.
LIFE = journal(
    (ACCEPT, 1), (CHECKPOINT, 0), (ACCEPT, 2), (REWIND, 2), (ACCEPT, 2), (CHECKPOINT, 0), (ACCEPT, 3),
    (REWIND, 6), (ACCEPT, 4), (REWIND, 2), (ACCEPT, 5),
)  # fmt: skip


def test_only_what_stands_is_left() -> None:
    assert standing(LIFE)["seq"].tolist() == [1, 2, 10, 11]
    assert standing(LIFE[:5])["seq"].tolist() == [1, 2, 4, 5]
    assert standing(LIFE[:3]) is not None
    assert len(standing(LIFE[:0])) == 0


def test_a_journal_without_rewinds_is_not_copied() -> None:
    assert np.shares_memory(standing(LIFE[:3]), LIFE)


def test_a_replay_leads_to_the_pages_that_are_accepted_now() -> None:
    done = replay(LIFE, profiles()["sw-protected"], [Slot(0, 0, 8 * PAGE_SIZE)], 8)
    assert done.discrepancies == ()
    assert np.flatnonzero(done.table & STATE_MASK).tolist() == [1, 5]


@pytest.mark.parametrize("size", [1, 2, 3, len(LIFE)])
def test_a_running_count_goes_back_however_the_journal_arrives(size: int) -> None:
    running = RunningCount(ROWS)
    for at in range(0, len(LIFE), size):
        running.add(LIFE[at : at + size])
    assert running.counts == count(standing(LIFE), ROWS)
    assert running.counts["accepted"] == 2


def test_the_live_journal_counts_what_stands(tmp_path: Path) -> None:
    with RestrictedFiles.create(1 << 20, layout=Layout.IN_PLACE, ring_records=CAPACITY) as files:
        producer = Producer(files.fds.ring, CAPACITY)
        ring = Ring(files.fds.ring)
        live = Journal(ring, tmp_path / "events.bin")
        for kind, value in ((ACCEPT, 1), (CHECKPOINT, 0), (ACCEPT, 2), (REWIND, 2)):
            producer.push(1, kind, gpa=value)
            live.drain()
        assert (live.total, live.count(ACCEPT), live.count(CHECKPOINT)) == (4, 1, 1)
        live.close()
        ring.close()
        producer.close()


def test_pieces_end_with_checkpoints_and_rewinds() -> None:
    ends = [int(piece["seq"][-1]) for piece in pieces(LIFE) if len(piece)]
    assert ends == [2, 4, 6, 8, 10, 11]


def test_the_file_keeps_what_was_undone(tmp_path: Path) -> None:
    path = tmp_path / "events.bin"
    path.write_bytes(LIFE.tobytes())
    file = JournalFile(path)
    file.require_sense()
    assert (len(file), len(file.written), file.gaps()) == (4, len(LIFE), 0)


def test_a_rewind_that_makes_no_sense_does_no_harm() -> None:
    wild = journal((ACCEPT, 1), (REWIND, 2**64 - 1), (ACCEPT, 2), (REWIND, 0))
    assert standing(wild)["seq"].tolist() == [4]
    running = RunningCount(ROWS)
    running.add(wild)
    assert running.counts["accepted"] == 2


def test_both_are_told() -> None:
    assert describe(LIFE[1]).endswith("checkpoint, record 2")
    assert describe(LIFE[9]).endswith("rewound to record 2, 1 pages")
