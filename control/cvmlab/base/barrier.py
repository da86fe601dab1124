# SPDX-License-Identifier: GPL-2.0-or-later
"""One at a time holds a thing; all others who use it wait until it is free."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import final

from cvmlab.base.errors import DeadlineExceeded


@final
class Barrier:
    """``async with barrier.held()`` keeps those who call passed() waiting.

    *what* completes "waited for ...".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = asyncio.Lock()
        self._free = asyncio.Event()
        self._free.set()

    @property
    def is_held(self) -> bool:
        return self._lock.locked()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold it; wait for the one who does."""
        async with self._lock:
            self._free.clear()
            try:
                yield
            finally:
                self._free.set()

    async def passed(self, timeout_s: float) -> None:
        """Wait until nobody holds it; raise DeadlineExceeded after *timeout_s*."""
        if self._free.is_set():
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._free.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(self._what, timeout_s) from error
