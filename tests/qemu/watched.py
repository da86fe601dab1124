# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests watch of a running machine, whatever its architecture: files, table, ring, journal."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.memory.accounting import Books, differences
from cvmlab.memory.journal import Ring
from cvmlab.memory.ranges import Slot
from cvmlab.memory.states import Layout, profiles
from cvmlab.vm.qmp import Qmp


class Watched:
    """The books of a machine; *profile* has the rules that they follow."""

    qmp: Qmp

    def __init__(self, profile: str, layout: Layout, files: RestrictedFiles) -> None:
        self.files = files
        self.table = files.page_table()
        self.ring = Ring(files.fds.ring)
        self.journal: list[NDArray[np.void]] = []
        self._profile, self._layout = profile, layout

    async def info(self) -> dict[str, Any]:
        """Return the backend's entry of query-restricted-memory."""
        (info,) = await self.qmp.execute("query-restricted-memory")
        assert isinstance(info, dict)
        return info

    def records(self) -> NDArray[np.void]:
        """Return the records since the last call."""
        batches = []
        while len(batch := self.ring.peek()):
            batches.append(batch.copy())
            self.ring.consume(len(batch))
        self.journal += batches
        return np.concatenate(batches) if batches else np.empty(0, self.ring.peek().dtype)

    async def compare_books(self) -> dict[str, Any]:
        """Compare journal, table, counts and files, which must agree to the page; return info().

        They are read one after the other, so no CPU may run meanwhile.
        """
        await self.qmp.execute("stop")
        info = await self.info()
        self.records()
        assert self.ring.dropped == 0
        books = Books(
            records=np.concatenate(self.journal),
            states=self.table.states(),
            pages=self.ring.page_counts(),
            counters=self.ring.counters(),
            storage=self.files.storage_bytes(),
            slots=[Slot(s["gpa"], s["offset"], s["size"]) for s in info["slots"]],
            rules=profiles()[self._profile],
            layout=self._layout,
        )
        assert differences(books) == []
        return info
