# SPDX-License-Identifier: GPL-2.0-or-later
"""The functions and the code of a guest's kernel, kept in the cache: to read them takes a second."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from cvmlab.base.errors import ImageError
from cvmlab.debian.cache import kept, key_of
from cvmlab.images.symbols import Symbols, from_elf, load
from cvmlab.images.vmlinux import extract_vmlinux
from cvmlab.unwind import code
from cvmlab.unwind.code import Code
from cvmlab.unwind.orc import Base, OrcTable


Arrays = Mapping[str, npt.NDArray[Any]]

T = TypeVar("T")

_FORMAT = "2"  # of the files; and to be changed when the same kernel has to be read anew
_KEPT = 8
_NO_NAME = ""
_END = "\0"  # of a name in an ELF file, which may have any other character
# What reading a file raises that another process has removed, or that is not whole.
_DAMAGED = (OSError, EOFError, BadZipFile, KeyError, TypeError, ValueError)


class KernelCode:
    """One kernel, read when it is first asked for."""

    def __init__(self, kernel: Path) -> None:
        self._kernel = kernel
        self._elf: Callable[[], bytes] = cache(partial(extract_vmlinux, kernel))

    def symbols(self, given: Path | None = None) -> Symbols:
        """Return the symbols in the file *given*, or else the kernel's own.

        :raise ImageError: there are none.
        """
        if given is not None:
            return load(given)
        return self._read(
            "kernel-symbols", lambda: from_elf(self._elf()), stored_symbols, symbols_in
        )

    def code(self) -> Code:
        """Return its code; there is none in a System.map, or in a damaged file."""
        try:
            return self._read(
                "kernel-code", lambda: code.from_elf(self._elf()), stored_code, code_in
            )
        except ImageError:  # of the kernel: none of the cache leaves _read()
            return Code()

    def _read(
        self,
        kind: str,
        make: Callable[[], T],
        store: Callable[[T], Arrays],
        read: Callable[[Arrays], T],
    ) -> T:
        """Return what *make* makes, or has made before.  It does not need the cache."""
        make = cache(make)  # for a cache that cannot keep it
        try:
            key = (_FORMAT, *key_of(self._kernel))
        except OSError:
            return make()  # and say why
        try:
            path = kept(kind, ".npz", key, lambda new: _write(new, store(make())), keep=_KEPT)
        except (ImageError, OSError):  # full, read-only, or the kernel is bad, as make() will say
            return make()
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return read(arrays)
        except _DAMAGED:
            with suppress(OSError):  # the cache may be read-only
                path.unlink(missing_ok=True)
            return make()


def _write(path: Path, arrays: Arrays) -> None:
    with path.open("wb") as file:  # savez() would add a suffix to a name
        np.savez(file, allow_pickle=False, **arrays)


def stored_symbols(symbols: Symbols) -> Arrays:
    """Return the arrays of *symbols*."""
    names = "".join((name or _NO_NAME) + _END for name in symbols.names)
    return {"addresses": symbols.addresses, "names": np.frombuffer(names.encode(), np.uint8)}


def symbols_in(arrays: Arrays) -> Symbols:
    """Return the symbols that stored_symbols() stored; raise ValueError if they are not whole."""
    *names, rest = arrays["names"].tobytes().decode().split(_END)
    addresses = arrays["addresses"].astype(np.uint64, copy=False)
    if rest or len(names) != len(addresses):
        raise ValueError(f"{len(addresses)} addresses have {len(names)} names")
    return Symbols(addresses, tuple(name or None for name in names))


def stored_code(found: Code) -> Arrays:
    """Return the arrays of *found*: parts one behind the other, and the table if there is one."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "starts": np.array([start for start, _ in found.parts], np.uint64),
        "lengths": np.array([len(data) for _, data in found.parts], np.uint64),
        "bytes": np.frombuffer(b"".join(data for _, data in found.parts), np.uint8),
        "returns": found.returns,
    }
    if found.orc is not None:
        arrays["orc_addresses"], arrays["orc_entries"] = found.orc.addresses, found.orc.entries
        arrays["orc_bases"] = np.array([*found.orc.bases.items()], np.int64).reshape(-1, 2)
        arrays["orc_old_types"] = np.array(found.orc.old_types)
    return arrays


def code_in(arrays: Arrays) -> Code:
    """Return the code that stored_code() stored; raise ValueError if it is not whole."""
    ends = np.cumsum(arrays["lengths"], dtype=np.int64)
    if len(arrays["bytes"]) != (ends[-1] if len(ends) else 0):
        raise ValueError("the parts have another length than their bytes")
    data = np.split(arrays["bytes"], ends[:-1]) if len(ends) else []
    parts = zip(arrays["starts"].tolist(), (part.tobytes() for part in data), strict=True)
    table = None
    if "orc_entries" in arrays:
        table = OrcTable(
            arrays["orc_addresses"].astype(np.uint64, copy=False),
            arrays["orc_entries"],
            {int(number): Base(int(base)) for number, base in arrays["orc_bases"]},
            bool(arrays["orc_old_types"]),
        )
    return Code(tuple(parts), table, arrays["returns"].astype(np.uint64, copy=False))
