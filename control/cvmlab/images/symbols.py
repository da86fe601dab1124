# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the function of an instruction address: ``nvme_submit_cmd+0x12``.

Symbols come from an ELF file's symbol table, a System.map, or the kallsyms tables of a stripped
kernel.  They are loaded once into sorted arrays; a lookup then takes microseconds.

KASLR moves the kernel: either boot with ``nokaslr``, or learn the slide from addresses whose
function is known (infer_slide) and look up through with_slide().
"""

import io
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from cvmlab.base.errors import ImageError
from cvmlab.images import kallsyms
from cvmlab.profiles.architecture import ARCHITECTURES, SymbolRules


# Elf32_Sym and Elf64_Sym (elf.h), by the class of the file.
_ELF_SYMBOL = {
    32: np.dtype(
        [("name", "<u4"), ("value", "<u4"), ("size", "<u4"), ("info", "u1"), ("other", "u1"),
         ("section", "<u2")]
    ),
    64: np.dtype(
        [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"),
         ("size", "<u8")]
    ),
}  # fmt: skip
_STT_NOTYPE, _STT_FUNC = 0, 2
_SHF_EXECINSTR = 4
_TEXT_TYPES = frozenset("tTwW")
_MAP_LINE = re.compile(r"([0-9a-f]{8,16}) ([A-Za-z?]) (\S+)")
_MIN_MAP_LINES = 16  # Debian ships a one-line placeholder under the name of the real map
_ELF_MAGIC, _HEAD_BYTES = b"\x7fELF", 512
_GENERATED = ("__pfx_", "__cfi_", "$", ".L")
# Symbols of the linker script, such as _etext and __entry_text_end: no function starts there.
_LINKER_SYMBOL = re.compile(r"_.*text(_start|_end)?")


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name in the address space; *text* is False if it only ends the function before it."""

    address: int
    name: str
    text: bool = True
    local: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Symbols:
    """Sorted symbols of one program; ``slide`` is the distance from its linked address."""

    addresses: npt.NDArray[np.uint64]
    names: tuple[str | None, ...]  # None: data, or the end of the text
    slide: int = 0

    @classmethod
    def of(cls, symbols: Iterable[Symbol]) -> "Symbols":
        """Sort *symbols*; of several at one address, keep the most informative."""
        best: dict[int, Symbol] = {}
        for symbol in symbols:
            known = best.get(symbol.address)
            if known is None or _rank(symbol) > _rank(known):
                best[symbol.address] = symbol
        ordered = [best[address] for address in sorted(best)]
        return cls(
            addresses=np.array([symbol.address for symbol in ordered], np.uint64),
            names=tuple(symbol.name if _names_code(symbol) else None for symbol in ordered),
        )

    def __len__(self) -> int:
        return len(self.names)

    def resolve(self, address: int) -> str | None:
        """Return ``function+0x12`` for the function that contains *address*, or None."""
        linked = address - self.slide
        if not 0 <= linked < 1 << 64:
            return None
        index = int(np.searchsorted(self.addresses, np.uint64(linked), side="right")) - 1
        name = self.names[index] if index >= 0 else None
        return None if name is None else f"{name}+{linked - int(self.addresses[index]):#x}"

    def function(self, address: int) -> str | None:
        """Return the name of the function that contains *address*, or None."""
        found = self.resolve(address)
        return None if found is None else found.rpartition("+")[0]

    def address_of(self, name: str) -> int | None:
        """Return where the function *name* begins, None if there is none."""
        try:
            return int(self.addresses[self.names.index(name)]) + self.slide
        except ValueError:
            return None

    def with_slide(self, slide: int) -> "Symbols":
        """Return the symbols of the program at *slide* bytes above its linked address."""
        return replace(self, slide=slide)

    def infer_slide(
        self, addresses: Sequence[int], functions: Iterable[str], rules: SymbolRules
    ) -> int | None:
        """Return the only KASLR slide that puts every address into one of *functions*.

        Return None if no slide or several do, because a wrong name is worse than none.
        """
        wanted = frozenset(functions)
        fitting = {
            slide
            for slide in self._slides(addresses[0] if addresses else -1, wanted, rules)
            if all(self.with_slide(slide).function(item) in wanted for item in addresses)
        }
        return fitting.pop() if len(fitting) == 1 else None

    def _slides(self, address: int, functions: frozenset[str], rules: SymbolRules) -> Iterator[int]:
        """Yield the slides that put *address* into one of *functions*."""
        step = rules.kaslr_step
        for index, name in enumerate(self.names):
            if name in functions:
                start = int(self.addresses[index])
                end = int(self.addresses[index + 1]) if index + 1 < len(self) else 1 << 64
                first = max(0, -((end - 1 - address) // step)) * step
                yield from range(first, min(address - start + 1, rules.kaslr_range), step)


def _names_code(symbol: Symbol) -> bool:
    return symbol.text and not _LINKER_SYMBOL.fullmatch(symbol.name)


def _rank(symbol: Symbol) -> tuple[bool, bool, bool, bool]:
    generated = symbol.name.startswith(_GENERATED)
    return _names_code(symbol), not generated, not symbol.local, not symbol.name.startswith("_")


def require_symbols(path: Path) -> None:
    """Raise ImageError unless *path* looks like an ELF file or a System.map, by its beginning."""
    with _opened(path) as file:
        head = file.read(_HEAD_BYTES)
    first = head.partition(b"\n")[0].rstrip(b"\r").decode("ascii", "replace")
    if not head.startswith(_ELF_MAGIC) and not _MAP_LINE.fullmatch(first):
        raise ImageError(
            f"{path} has no symbols: it is neither an ELF file nor a System.map",
            hint="give vmlinux, or the System.map of the kernel's build",
        )


def _opened(path: Path) -> BinaryIO:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, a device has no end
            raise ImageError(f"cannot read symbols from {path}: it is not a file")
        return path.open("rb")
    except OSError as error:
        raise ImageError(f"cannot read symbols from {path}: {error.strerror}") from error


def load(path: Path) -> Symbols:
    """Read the symbols of an ELF file or a System.map; raise ImageError if it has none."""
    with _opened(path) as file:
        content = file.read()
    if content.startswith(_ELF_MAGIC):
        return from_elf(content)
    return from_system_map(content.decode("ascii", "replace"), name=str(path))


def from_system_map(text: str, *, name: str = "System.map") -> Symbols:
    """Read lines of ``address type name``, as ``nm`` prints them."""
    found = [match.groups() for line in text.splitlines() if (match := _MAP_LINE.fullmatch(line))]
    if len(found) < _MIN_MAP_LINES:
        raise ImageError(
            f"{name} is a placeholder without symbols",
            hint="leave it out: the kernel usually has its symbols (kallsyms)",
        )
    return Symbols.of(
        Symbol(int(address, 16), symbol, kind in _TEXT_TYPES, kind.islower())
        for address, kind, symbol in found
    )


def from_elf(content: bytes) -> Symbols:
    """Read the symbol table of an ELF file, or the kallsyms tables of a stripped kernel."""
    try:
        elf = ELFFile(io.BytesIO(content))
        table = elf.get_section_by_name(".symtab")
        if not isinstance(table, SymbolTableSection):
            return _from_kallsyms(content, elf)
        return Symbols.of(_elf_symbols(elf, table))
    except ELFError as error:
        raise ImageError(f"the ELF file is damaged: {error}") from error


def _from_kallsyms(content: bytes, elf: ELFFile) -> Symbols:
    row = ARCHITECTURES.of_elf(elf["e_machine"])
    if row is None:
        raise ImageError(
            f"the kallsyms tables of {elf['e_machine']} cannot be read",
            hint="give the kernel's System.map or an unstripped vmlinux with --symbols",
        )
    segments = tuple(
        kallsyms.Segment(part["p_offset"], part["p_vaddr"], part["p_filesz"])
        for part in elf.iter_segments("PT_LOAD")
    )
    table = kallsyms.decode(content, segments, row.symbols)
    return Symbols.of(
        Symbol(address, name, kind in _TEXT_TYPES, kind.islower())
        for address, name, kind in zip(
            table.addresses.tolist(), table.names, table.types, strict=True
        )
    )


def _code_sections(elf: ELFFile) -> dict[int, int]:
    """Return, for the number of each section with code, its end in memory."""
    return {
        number: section["sh_addr"] + section["sh_size"]
        for number, section in enumerate(elf.iter_sections())
        if section["sh_flags"] & _SHF_EXECINSTR
    }


def _elf_symbols(elf: ELFFile, table: SymbolTableSection) -> list[Symbol]:
    # pyelftools makes an object per symbol, which takes seconds; the array takes milliseconds.
    rows = np.frombuffer(table.data(), _ELF_SYMBOL[elf.elfclass])
    strings = elf.get_section(table["sh_link"]).data()
    code = _code_sections(elf)
    symbols = [Symbol(end, "", text=False) for end in code.values()]
    for row in rows[np.isin(rows["info"] & 0xF, (_STT_NOTYPE, _STT_FUNC))]:
        section, value = int(row["section"]), int(row["value"])
        start = int(row["name"])
        name = strings[start : strings.index(0, start)].decode("ascii", "replace")
        if section in code and name:
            local = row["info"] >> 4 == 0
            symbols.append(Symbol(value, name, local=bool(local)))
    return symbols


class LazySymbols:
    """Symbols that are loaded at the first lookup; after a failure, no address has a function.

    ``problem`` then says why, for the report.
    """

    def __init__(self, loader: Callable[[], Symbols]) -> None:
        self._loader = loader
        self._symbols: Symbols | None = None
        self.problem: str | None = None

    def resolve(self, address: int) -> str | None:
        symbols = self.get()
        return symbols.resolve(address) if symbols is not None and address else None

    def get(self) -> Symbols | None:
        if self._symbols is None and self.problem is None:
            try:
                self._symbols = self._loader()
            except ImageError as error:
                self.problem = error.message
        return self._symbols
