# SPDX-License-Identifier: GPL-2.0-or-later
"""Decompress what the kernel's build compresses: gzip, xz, zstd, lzma, bzip2, lz4.  Pure."""

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard

from cvmlab.base.errors import ImageError


class _Decompressor(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...


_GZIP = b"\x1f\x8b"
# All decompressors but lz4's ignore the size that follows the compressed data.
_FORMATS: tuple[tuple[bytes, Callable[[], _Decompressor]], ...] = (
    (_GZIP, lambda: zlib.decompressobj(zlib.MAX_WBITS | 16)),
    (b"\xfd7zXZ\0", lzma.LZMADecompressor),
    (b"\x28\xb5\x2f\xfd", lambda: zstandard.ZstdDecompressor().decompressobj()),
    (b"\x5d\0\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE)),
    (b"BZh", bz2.BZ2Decompressor),
)
_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_LZ4_BLOCK = 8 << 20
_HEAD_INPUT_BYTES = 4096
_DAMAGE = (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, ValueError, IndexError)


def decompressed(data: bytes, tail_bytes: int = 0, *, whole: bool = False) -> bytes | None:
    """Return what *data* is compressed from, None if by no program that the kernel's build uses.

    *tail_bytes* follow the compressed data.  Raise ImageError if it is damaged; with *whole* also if
    its end is missing, where nothing else tells it.
    """
    try:
        for magic, make in _FORMATS:
            if data.startswith(magic):
                decompressor = make()
                found = decompressor.decompress(data)
                if whole and not getattr(decompressor, "eof", True):
                    raise ImageError("is damaged: its end is missing")
                return found
        if data.startswith(_LZ4_LEGACY):
            return _decompress_lz4(data[len(_LZ4_LEGACY) : len(data) - tail_bytes])
    except _DAMAGE as error:
        raise ImageError(f"is damaged: {error}") from error
    return None


def decompressed_head(data: bytes, size: int) -> bytes:
    """Return the first *size* bytes of what is in a gzip file, which may be damaged; else nothing."""
    if not data.startswith(_GZIP):
        return b""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data[:_HEAD_INPUT_BYTES], size)
    except zlib.error:
        return b""


def _decompress_lz4(blocks: bytes) -> bytes:
    """Read the format of ``lz4 -l``: blocks with their compressed size in front."""
    parts, at = [], 0
    while at + 4 <= len(blocks):
        size = int.from_bytes(blocks[at : at + 4], "little")
        parts.append(_lz4_block(blocks[at + 4 : at + 4 + size]))
        at += 4 + size
    return b"".join(parts)


def _lz4_block(block: bytes) -> bytes:
    """Decompress one block (lz4_Block_format.md): literals, then a copy from before, repeated."""
    out = bytearray()
    at = 0
    while at < len(block):
        token, at = block[at], at + 1
        length, at = _lz4_length(block, at, token >> 4)
        out += block[at : at + length]
        at += length
        if at >= len(block):
            break
        distance, at = int.from_bytes(block[at : at + 2], "little"), at + 2
        length, at = _lz4_length(block, at, token & 15)
        length += 4
        if not 0 < distance <= len(out) or len(out) + length > _LZ4_BLOCK:
            raise ValueError("a copy from outside the block")
        start = len(out) - distance
        piece = bytes(out[start : start + length])
        out += (piece * (length // len(piece) + 1))[:length]
    return bytes(out)


def _lz4_length(block: bytes, at: int, length: int) -> tuple[int, int]:
    if length == 15:
        while (more := block[at]) == 255:
            length, at = length + 255, at + 1
        length, at = length + more, at + 1
    return length, at
