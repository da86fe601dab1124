# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of a file that are pinned for I/O.

The engine keeps its own ledger, because user space cannot see the kernel's pins, and these outlive a
conversion.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Hold(StrEnum):
    """How long a pin is expected to last."""

    TRANSIENT = "transient"  # an LRU batch, a fault in flight: gone on retry
    IO = "io"  # until the request completes
    LONG_TERM = "long-term"  # an IOMMU mapping: maybe for ever


@dataclass(frozen=True, slots=True, eq=False)
class Pin:
    """``[start, end)`` in page indexes, held by ``who``; equal pins count separately."""

    start: int
    end: int
    who: str
    hold: Hold


class PinLedger:
    """All pins of one file."""

    __slots__ = ("_pins",)

    def __init__(self) -> None:
        self._pins: list[Pin] = []

    def pin(self, start: int, end: int, who: str, hold: Hold = Hold.IO) -> Pin:
        pin = Pin(start, end, who, hold)
        self._pins.append(pin)
        return pin

    def unpin(self, pin: Pin) -> None:
        self._pins.remove(pin)

    def __iter__(self) -> Iterator[Pin]:
        return iter(self._pins)

    def first(self, start: int, end: int) -> Pin | None:
        """Return the pin that holds the lowest page of ``[start, end)``, or None."""
        holding = [pin for pin in self._pins if pin.start < end and start < pin.end]
        return min(holding, key=lambda pin: max(pin.start, start), default=None)

    def count(self, index: int) -> int:
        return sum(pin.start <= index < pin.end for pin in self._pins)
