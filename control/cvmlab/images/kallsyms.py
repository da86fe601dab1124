# SPDX-License-Identifier: GPL-2.0-or-later
"""Read the kallsyms tables out of a stripped vmlinux of x86-64, or an arm64 Image (vmlinux.py).

Nothing in the file names the tables, so they are found by their structure, and a result is accepted
only if it is consistent: every 256th name starts where its marker says, the names end where the
markers begin, and the addresses are sorted.  The format is that of the kernel's
``scripts/kallsyms.c``; the order of the tables changed over time:

* 6.1     offsets, relative base, count, names, markers, tokens, token index
* 6.12    count, names, markers, tokens, token index, offsets, relative base, order of names
* 7.2     as 6.12, packed to 4 bytes and without relative base: an offset counts from its place

These three were tested with Debian's kernels.  Other tables between markers and tokens, which
kernels between 6.1 and 6.12 have, are skipped.
"""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cvmlab.base.errors import ImageError
from cvmlab.profiles.architecture import SymbolRules


Addresses = npt.NDArray[np.uint64]

_TOKENS = 256
_NAMES_PER_MARKER = 256
# Digits occur in symbol names, so each digit is a token, and the ten tokens are adjacent.
_DIGITS = b"".join(bytes([digit, 0]) for digit in b"0123456789")
_MAX_TOKEN_TABLE = 16 << 10
_MAX_TABLES = 32 << 20  # all tables of a distribution's kernel are below 5 MiB
_MIN_MARKERS = 4
_MIN_KERNEL_SHARE = 0.5  # the rest are per-CPU offsets, small numbers


@dataclass(frozen=True, slots=True)
class Kallsyms:
    """``addresses`` ascend; ``names[i]`` belongs to ``addresses[i]``; ``types`` as ``nm`` has."""

    addresses: Addresses
    names: tuple[str, ...]
    types: str


@dataclass(frozen=True, slots=True)
class _Tokens:
    start: int
    end: int  # of the index, which follows the table
    text: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _NameTable:
    count_at: int
    symbols: tuple[str, ...]  # with the type letter in front


@dataclass(frozen=True, slots=True)
class Segment:
    """A loaded part of the ELF file: where it is in the file and in memory."""

    offset: int
    address: int
    size: int


def decode(vmlinux: bytes, segments: tuple[Segment, ...], rules: SymbolRules) -> Kallsyms:
    """Return all symbols in the kernel's tables; raise ImageError if it has none.

    *segments* map file contents to memory addresses, which the newest layout needs; *rules* say
    which addresses are the kernel's.
    """
    tokens = _find_tokens(vmlinux)
    if tokens is None:
        raise ImageError(
            "the kernel has no kallsyms tables",
            hint="give its System.map or an unstripped vmlinux with --symbols",
        )
    for names in _find_names(vmlinux, tokens):
        addresses = _find_addresses(vmlinux, segments, tokens, names, rules)
        if addresses is not None:
            return Kallsyms(
                addresses=addresses,
                names=tuple(symbol[1:] for symbol in names.symbols),
                types="".join(symbol[0] for symbol in names.symbols),
            )
    raise ImageError(
        "the kernel's kallsyms tables have a layout that cvmlab does not know",
        hint="give its System.map or an unstripped vmlinux with --symbols",
    )


def _find_tokens(image: bytes) -> _Tokens | None:
    at = image.find(_DIGITS)
    while at >= 0:
        tokens = _tokens_around(image, at)
        if tokens is not None:
            return tokens
        at = image.find(_DIGITS, at + 1)
    return None


def _tokens_around(image: bytes, digit_zero: int) -> _Tokens | None:
    """Return the token table whose entry for ``0`` is at *digit_zero*, if there is one."""
    end = digit_zero
    for _ in range(_TOKENS - ord("0")):
        end = image.find(0, end, digit_zero + _MAX_TOKEN_TABLE) + 1
        if end == 0:
            return None
    for alignment in (8, 4):
        index_at = _align(end, alignment)
        index = np.frombuffer(image, "<u2", _TOKENS, index_at)
        start = digit_zero - int(index[ord("0")])
        text = image[start : end - 1].split(b"\0")
        if len(text) == _TOKENS and _starts(text) == index.tolist():
            return _Tokens(start, index_at + index.nbytes, tuple(text))
    return None


def _starts(texts: list[bytes]) -> list[int]:
    starts, at = [], 0
    for text in texts:
        starts.append(at)
        at += len(text) + 1
    return starts


def _find_names(image: bytes, tokens: _Tokens) -> list[_NameTable]:
    """Return all ways to read the bytes before the token table as names and their markers."""
    base = max(0, tokens.start - _MAX_TABLES) & ~3
    words = np.frombuffer(image, "<u4", (tokens.start - base) // 4, base)
    step = np.diff(words.astype(np.int64))
    # Markers differ by at least two bytes a name, and names are short.
    rising = (step >= 2 * _NAMES_PER_MARKER) & (step <= 128 * _NAMES_PER_MARKER)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], rising.view(np.int8), [0]))))
    found = []
    for first, last in edges.reshape(-1, 2).tolist():
        if last - first >= _MIN_MARKERS - 1 and words[first] == 0:
            names = _names_before(image, base + 4 * first, words[first : last + 1], tokens)
            found += [names] if names is not None else []
    return found


def _names_before(
    image: bytes, markers_at: int, markers: npt.NDArray[np.uint32], tokens: _Tokens
) -> _NameTable | None:
    """Return the names that *markers* point into; they end where the markers begin."""
    last = int(markers[-1])
    shortest, longest = last + 2, last + 128 * _NAMES_PER_MARKER
    fewest, most = (len(markers) - 1) * _NAMES_PER_MARKER + 1, len(markers) * _NAMES_PER_MARKER
    for start in range(max(8, _align(markers_at - longest, 4)), markers_at - shortest + 1, 4):
        for count_at in (start - 4, start - 8):
            (count,) = struct.unpack_from("<I", image, count_at)
            if fewest <= count <= most:
                symbols = _expand(image[start:markers_at], count, markers.tolist(), tokens.text)
                if symbols is not None:
                    return _NameTable(count_at, symbols)
    return None


def _expand(
    packed: bytes, count: int, markers: list[int], tokens: tuple[bytes, ...]
) -> tuple[str, ...] | None:
    """Decompress *count* names, or return None if they do not fill *packed* as *markers* say."""
    symbols, at, end = [], 0, len(packed)
    for number in range(count):
        if number % _NAMES_PER_MARKER == 0 and at != markers[number // _NAMES_PER_MARKER]:
            return None
        if at + 2 > end:
            return None
        length, at = packed[at], at + 1
        if length & 0x80:  # since 6.1: names of more than 127 tokens have two length bytes
            length, at = (length & 0x7F) | packed[at] << 7, at + 1
        text = b"".join(map(tokens.__getitem__, packed[at : at + length]))
        symbols.append(text.decode("ascii", "replace") or "??")
        at += length
    return tuple(symbols) if _align(at, 8) >= end >= at else None


def _find_addresses(
    image: bytes,
    segments: tuple[Segment, ...],
    tokens: _Tokens,
    names: _NameTable,
    rules: SymbolRules,
) -> Addresses | None:
    count = len(names.symbols)
    size = 4 * count
    before = names.count_at - 8  # relative base, with the offsets in front of it
    places = [
        (_align(tokens.end, 4), _align(tokens.end + size, 8)),
        (_align(tokens.end, 8), _align(_align(tokens.end, 8) + size, 8)),
        (_align(before - size - 7, 8), before),
    ]
    for offsets_at, base_at in places:
        if offsets_at < 0 or max(offsets_at + size, base_at + 8) > len(image):
            continue
        offsets = np.frombuffer(image, "<i4", count, offsets_at)
        (base,) = struct.unpack_from("<Q", image, base_at)
        for addresses in (
            _from_base(offsets, base),
            _from_base_or_absolute(offsets, base),
            _from_place(offsets, offsets_at, segments),
        ):
            if _plausible(addresses, rules.kernel_space):
                return addresses
    return None


def _from_base(offsets: npt.NDArray[np.int32], base: int) -> Addresses:
    return offsets.view(np.uint32).astype(np.uint64) + np.uint64(base)


def _from_base_or_absolute(offsets: npt.NDArray[np.int32], base: int) -> Addresses:
    """CONFIG_KALLSYMS_ABSOLUTE_PERCPU: negative offsets are relative to the base, others absolute."""
    wide = offsets.astype(np.int64)
    relative = np.uint64(base) + (-1 - wide).astype(np.uint64)
    return np.where(wide >= 0, wide.astype(np.uint64), relative)


def _from_place(
    offsets: npt.NDArray[np.int32], offsets_at: int, segments: tuple[Segment, ...]
) -> Addresses | None:
    for part in segments:
        if part.offset <= offsets_at < part.offset + part.size:
            place = np.uint64(part.address + offsets_at - part.offset)
            places = place + 4 * np.arange(len(offsets), dtype=np.uint64)
            return places + offsets.astype(np.int64).view(np.uint64)
    return None


def _plausible(addresses: Addresses | None, kernel_space: int) -> bool:
    if addresses is None or not np.all(addresses[1:] >= addresses[:-1]):
        return False
    return float(np.mean(addresses >= kernel_space)) >= _MIN_KERNEL_SHARE


def _align(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
