# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel modules in an unpacked package: the files that a module needs, in the order to load them.

A package has no ``modules.dep``, because depmod makes it at installation, so this module reads the
same source as depmod: the ``.modinfo`` sections of the modules.
"""

import fnmatch
import functools
import io
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePath

import zstandard
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from cvmlab.base.errors import ImageError


_FILE_NAME = re.compile(r"(.+)\.ko(\.(xz|zst|gz))?")
_MODULE_DIRS = ("usr/lib/modules", "lib/modules")


@dataclass(frozen=True, slots=True)
class Module:
    """A module file; ``name`` has underscores, as in the kernel.

    ``depends`` must be loaded before it, ``wants`` should be ("softdep pre").
    """

    name: str
    path: Path
    depends: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    def contents(self) -> bytes:
        """Return the ELF file, decompressed."""
        return _read(self.path)


@dataclass(frozen=True)
class ModuleTree:
    """All modules of one kernel: ``folder`` is ``.../lib/modules/<release>``."""

    folder: Path

    @classmethod
    def find(cls, unpacked: Path) -> "ModuleTree":
        """Return the tree in an unpacked package, or raise ImageError."""
        found = [
            folder
            for modules in _MODULE_DIRS
            for folder in sorted((unpacked / modules).glob("*"))
            if folder.is_dir()
        ]
        if len(found) != 1:
            names = ", ".join(folder.name for folder in found) or "none"
            raise ImageError(
                f"{unpacked} should have the modules of one kernel; it has {names}",
                hint="remove that folder; it is fetched again",
            )
        return cls(found[0])

    @property
    def release(self) -> str:
        """The output of ``uname -r`` of this kernel."""
        return self.folder.name

    @functools.cached_property
    def files(self) -> dict[str, Path]:
        """Module files by name."""
        found = {}
        for path in sorted(self.folder.rglob("*.ko*")):
            if name := name_of_file(path.name):
                found[name] = path
        return found

    @functools.cached_property
    def builtin(self) -> frozenset[str]:
        """Names of the modules that are built into the kernel."""
        return frozenset(normal(Path(line).stem) for line in self._lines("modules.builtin") if line)

    def load_order(self, names: Iterable[str]) -> tuple[Module, ...]:
        """Return the modules for *names* (or aliases), each after those it needs, without repeats.

        Built-in modules are left out.  An unknown name raises ImageError with a suggestion.
        """
        ordered: dict[str, Module] = {}
        for name in names:
            for found in self._by_name_or_alias(name):
                self._visit(found, ordered, [])
        return tuple(ordered.values())

    def _visit(self, name: str, ordered: dict[str, Module], above: list[str]) -> None:
        if name in ordered or name in self.builtin or name in above:
            return
        if name not in self.files:
            raise ImageError(
                f"module {above[-1] if above else name} of {self.release} needs {name}, "
                "which the kernel package does not have",
            )
        module = self.module(name)
        for wanted in module.wants:
            if wanted in self.files:
                self._visit(wanted, ordered, [*above, name])
        for needed in module.depends:
            self._visit(needed, ordered, [*above, name])
        ordered[name] = module

    def module(self, name: str) -> Module:
        """Read the module file *name*."""
        path = self.files[name]
        return Module(name, path, *_parse_modinfo(path))

    def contents(self, name: str) -> bytes | None:
        """Return the ELF file of the module *name*, None if there is none that can be read."""
        path = self.files.get(normal(name))
        try:
            return None if path is None else _read(path)
        except ImageError:
            return None

    def _by_name_or_alias(self, name: str) -> Sequence[str]:
        plain = normal(name)
        if plain in self.files or plain in self.builtin:
            return [plain]
        # Reading the aliases of all modules takes seconds; names have none of these characters.
        if ":" in name or "-" in name:
            matching = self._with_alias(name)
            if matching or self._builtin_alias(name):
                return matching
        near = get_close_matches(plain, [*self.files, *sorted(self.builtin)], n=1)
        raise ImageError(
            f"kernel {self.release} has no module {name!r}",
            hint=f"did you mean {near[0]}?" if near else "its modules are in " + str(self.folder),
        )

    def _with_alias(self, alias: str) -> list[str]:
        return [
            name
            for name in self.files
            if any(fnmatch.fnmatchcase(alias, known) for known in self.module(name).aliases)
        ]

    def _builtin_alias(self, alias: str) -> bool:
        pairs = (line.partition(".alias=") for line in self._lines("modules.builtin.modinfo", "\0"))
        return any(fnmatch.fnmatchcase(alias, known) for _, found, known in pairs if found)

    def _lines(self, name: str, separator: str = "\n") -> Iterator[str]:
        path = self.folder / name
        if path.is_file():
            yield from path.read_text("utf-8", "replace").split(separator)


def normal(name: str) -> str:
    """Return *name* as in the kernel: ``virtio-rng.ko`` is the module ``virtio_rng``."""
    return name.replace("-", "_")


def name_of_file(file: str) -> str | None:
    """Return the name of the module in a file of that name, None if it is no module's."""
    match = _FILE_NAME.fullmatch(file)
    return None if match is None else normal(match.group(1))


def _read(path: Path) -> bytes:
    return unpacked(path, path.read_bytes())


def unpacked(path: PurePath, packed: bytes) -> bytes:
    """Return the ELF file in the content of the module file *path*; raise ImageError if damaged."""
    try:
        match path.suffix:
            case ".xz":
                return lzma.decompress(packed)
            case ".zst":
                return zstandard.ZstdDecompressor().decompressobj().decompress(packed)
            case ".gz":
                return zlib.decompress(packed, wbits=zlib.MAX_WBITS | 16)
            case _:
                return packed
    except (lzma.LZMAError, zstandard.ZstdError, zlib.error) as error:
        raise _damaged(path, error) from error


def _parse_modinfo(path: Path) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the module's dependencies, soft dependencies and aliases."""
    depends: list[str] = []
    wants: list[str] = []
    aliases: list[str] = []
    for item in _modinfo(path):
        key, _, value = item.partition("=")
        match key:
            case "depends":
                depends += [normal(name) for name in value.split(",") if name]
            case "softdep" if value.startswith("pre:"):
                wants += [normal(name) for name in value[4:].partition("post:")[0].split()]
            case "alias":
                aliases.append(value)
    return tuple(depends), tuple(wants), tuple(aliases)


def _modinfo(path: Path) -> list[str]:
    try:
        section = ELFFile(io.BytesIO(_read(path))).get_section_by_name(".modinfo")
    except ELFError as error:
        raise _damaged(path, error) from error
    if section is None:
        raise ImageError(f"{path.name} has no .modinfo section: it is not a kernel module")
    data: bytes = section.data()
    return data.decode("utf-8", "replace").split("\0")


def _damaged(path: PurePath, error: Exception) -> ImageError:
    return ImageError(
        f"{path} is damaged: {error}", hint="remove the cached package; it is fetched again"
    )
