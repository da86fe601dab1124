# SPDX-License-Identifier: GPL-2.0-or-later
"""Look into an initrd: does its init call the agent, has it a shell, which modules has it?

An initrd is one or more cpio archives (``newc``), one after the other, each compressed or not: the
kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from cvmlab.base.errors import ImageError
from cvmlab.images import kernel_modules
from cvmlab.images.decompression import decompressed


AGENT = b"cvmlab/agent"
_MAGICS = (b"070701", b"070702")
_HEADER_BYTES = 110
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class InitrdContents:
    """What matters of an initrd; ``is_known`` is False if it could not be read."""

    is_known: bool
    calls_agent: bool
    has_shell: bool


def look_into(data: bytes) -> InitrdContents:
    """Return what matters of the initrd *data*."""
    names: set[str] = set()
    links: dict[str, str] = {}
    calls_agent = False
    try:
        for name, mode, content in _entries(data):
            names.add(name)
            if stat.S_ISLNK(mode):
                links[name] = content.decode("utf-8", "replace")
            calls_agent = calls_agent or (stat.S_ISREG(mode) and AGENT in content)
    except (ImageError, ValueError, IndexError):
        return InitrdContents(is_known=False, calls_agent=calls_agent, has_shell=False)
    return InitrdContents(bool(names), calls_agent, _has_shell(names, links))


@dataclass(frozen=True)
class InitrdModules:
    """The kernel modules in the file *initrd*, which is read when the first is asked for."""

    initrd: Path

    def contents(self, name: str) -> bytes | None:
        """Return the ELF file of the module *name*, None if there is none that can be read."""
        path, packed = self._files.get(kernel_modules.normal(name), (None, b""))
        try:
            return None if path is None else kernel_modules.unpacked(path, packed)
        except ImageError:
            return None

    @cached_property
    def _files(self) -> dict[str, tuple[PurePosixPath, bytes]]:
        found: dict[str, tuple[PurePosixPath, bytes]] = {}
        try:
            for name, mode, content in _entries(self.initrd.read_bytes()):
                path = PurePosixPath(name)
                if stat.S_ISREG(mode) and (module := kernel_modules.name_of_file(path.name)):
                    found[module] = path, content
        except (OSError, ImageError, ValueError, IndexError):
            pass  # what was read before counts
        return found


def _has_shell(names: set[str], links: dict[str, str]) -> bool:
    """Whether /bin/sh is there; /bin may be a link to usr/bin."""
    folder = PurePosixPath("/", links.get("bin", "bin"))
    return str(folder / "sh").lstrip("/") in names


def _entries(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Yield name, mode and content of everything in all archives of *data*."""
    at = 0
    while at < len(data):
        if data[at] == 0:  # the padding between two archives
            at += len(data) - at - len(data[at:].lstrip(b"\0"))
        elif data[at : at + 6] in _MAGICS:
            at = yield from _archive(data, at)
        else:
            unpacked = decompressed(data[at:])
            if unpacked is None:
                raise ValueError("neither an archive nor compressed")
            data, at = unpacked, 0


def _archive(data: bytes, at: int) -> Generator[tuple[str, int, bytes], None, int]:
    """Yield the entries of the archive at *at*; return where it ends."""
    while data[at : at + 6] in _MAGICS:
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_bytes = fields[1], fields[6], fields[11]
        start = at + _HEADER_BYTES
        name = data[start : start + name_bytes - 1].decode("utf-8", "replace")
        begin = _aligned(at, start + name_bytes)
        at = _aligned(at, begin + size)
        if name == _TRAILER:
            break
        yield name.removeprefix("./").lstrip("/"), mode, data[begin : begin + size]
    return at


def _aligned(start: int, at: int) -> int:
    """Return the next multiple of 4, counted from *start*, an archive's own beginning."""
    return at + -(at - start) % 4
