# SPDX-License-Identifier: GPL-2.0-or-later
"""Ranges of guest physical memory, and the notation of sizes.

A range is half-open, in bytes; its text form is ``0x1000+2M``.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from cvmlab.base.errors import ConfigError


PAGE_SIZE = 4096
_GPA_END = 1 << 64
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(0x[0-9a-f]+|[0-9]+)\s*(?:([KMGT])(?:iB)?)?", re.IGNORECASE)
_SIZE_HINT = "write a number of bytes, or a number with K, M, G or T, such as 512M"
_RANGE_HINT = "write START+SIZE or START-END, such as 0x100000+2M"


def parse_size(text: str) -> int:
    """Return bytes for ``4096``, ``0x1000``, ``512M`` or ``1GiB``; K is 1024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a size", hint=_SIZE_HINT)
    number, unit = match.groups()
    return int(number, 0 if number[:2].lower() == "0x" else 10) * _UNITS[(unit or "").upper()]


def format_size(size_bytes: int) -> str:
    """Return the shortest exact form that parse_size() reads: ``2M``, ``4097``."""
    for unit in "TGMK":
        if size_bytes and size_bytes % _UNITS[unit] == 0:
            return f"{size_bytes // _UNITS[unit]}{unit}"
    return str(size_bytes)


@dataclass(frozen=True, slots=True, order=True)
class GpaRange:
    """``[start, start + size)`` in guest physical bytes; not empty, and not beyond 2**64."""

    start: int
    size: int

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise ConfigError(
                f"the range at {self.start:#x} is empty (rule: not-empty)", hint=_RANGE_HINT
            )
        if self.start < 0 or self.start + self.size > _GPA_END:
            raise ConfigError(
                f"the range at {self.start:#x} with {self.size:#x} bytes ends beyond the "
                "64-bit address space (rule: in-range)"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``START+SIZE`` or ``START-END`` (END is excluded)."""
        for sign in "+-":
            start, found, rest = text.partition(sign)
            if found:
                first, second = parse_size(start), parse_size(rest)
                return cls(first, second if sign == "+" else second - first)
        raise ConfigError(f"{text!r} is not a range of guest memory", hint=_RANGE_HINT)

    @property
    def end(self) -> int:
        return self.start + self.size

    @property
    def pages(self) -> int:
        """Pages that the range touches."""
        return -(-self.end // PAGE_SIZE) - self.start // PAGE_SIZE

    @property
    def aligned(self) -> bool:
        return not (self.start | self.size) % PAGE_SIZE

    def overlaps(self, other: Self) -> bool:
        return self.start < other.end and other.start < self.end

    def contains(self, other: Self) -> bool:
        return self.start <= other.start and other.end <= self.end

    def __str__(self) -> str:  # type: ignore[explicit-override] # typing.override: 3.12
        return f"{self.start:#x}+{format_size(self.size)}"


def unaligned_fault(ranges: Iterable[GpaRange]) -> str | None:
    """Name the first range that is not whole pages, or return None."""
    for item in ranges:
        if not item.aligned:
            return f"{item} does not start and end on a 4 KiB page (rule: aligned)"
    return None


def overlap_fault(ranges: Iterable[GpaRange]) -> str | None:
    """Name two ranges that overlap, or return None."""
    for low, high in pairwise(sorted(ranges)):
        if low.end > high.start:
            return f"{low} and {high} overlap (rule: disjoint)"
    return None


def beyond_fault(ranges: Iterable[GpaRange], ram: Sequence[GpaRange]) -> str | None:
    """Name the first range that is not inside one part of guest RAM, or return None."""
    for item in ranges:
        if not any(part.contains(item) for part in ram):
            have = ", ".join(map(str, ram)) or "none"
            return f"{item} is not inside guest RAM, which is {have} (rule: in-range)"
    return None


def require_ranges(ranges: Sequence[GpaRange], ram: Sequence[GpaRange]) -> None:
    """Raise ConfigError unless every range is whole pages of RAM and none overlap."""
    if not ranges:
        raise ConfigError("no range was given (rule: not-empty)", hint=_RANGE_HINT)
    fault = unaligned_fault(ranges) or overlap_fault(ranges) or beyond_fault(ranges, ram)
    if fault is not None:
        raise ConfigError(fault, hint="`cvmlab query` shows where guest RAM is")


@dataclass(frozen=True, slots=True)
class Slot:
    """A part of the memory files that the guest sees at *gpa*; offset and size in bytes."""

    gpa: int
    offset: int
    size: int

    @property
    def range(self) -> GpaRange:
        return GpaRange(self.gpa, self.size)
