# SPDX-License-Identifier: GPL-2.0-or-later
"""What a dump costs: 1 GiB of memory in use, beside `cp` of the same data."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cvmlab.dump.contents import Holder, Reach, extents, pieces
from cvmlab.dump.core_file import CoreContent, write_core
from cvmlab.dump.notes import PageStates
from cvmlab.memory.ranges import PAGE_SIZE, Slot
from cvmlab.memory.states import Layout
from cvmlab.memory.table import runs_of
from tests.bench.measure import Figure, paired, seconds


SIZE = 1 << 30
ROUNDS = 7
COPY_S = 120
# As in a guest: 64 MiB of it are shared, the rest is private.
SHARED = slice((SIZE - (64 << 20)) // PAGE_SIZE, SIZE // PAGE_SIZE)


def figures() -> Iterator[Figure]:
    """Yield the ratio of a dump to a copy, both to the same disk."""
    with TemporaryDirectory(dir=Path.cwd()) as folder:
        source = os.memfd_create("memory")
        try:
            noise = np.random.default_rng(1).bytes(1 << 24)
            for at in range(0, SIZE, len(noise)):
                os.pwrite(source, noise, at)
            yield _dump(source, Path(folder))
        finally:
            os.close(source)


def _dump(source: int, folder: Path) -> Figure:
    table = np.ones(SIZE // PAGE_SIZE, np.uint8)
    table[SHARED] = 2
    slots = (Slot(0, 0, SIZE),)
    found = list(pieces(slots, runs_of([(0, table)], 0, len(table)), Layout.SPLIT, Reach.ALL))
    content = CoreContent(62, [], PageStates(slots, table), extents(found))
    files = {Holder.PRIVATE: source, Holder.SHARED: source}

    def fresh(name: str) -> Path:
        for old in ("dump", "copy"):
            (folder / old).unlink(missing_ok=True)
        os.sync()
        return folder / name

    def dump() -> float:
        file = fresh("dump")
        return seconds(lambda: write_core(file, content, files))

    def copy() -> float:
        words = ["cp", f"/proc/{os.getpid()}/fd/{source}", str(fresh("copy"))]
        return seconds(lambda: subprocess.run(words, check=True, timeout=COPY_S))

    return paired("dump", dump, copy, ROUNDS)
