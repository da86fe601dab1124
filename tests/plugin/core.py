# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiled C core as Python sees it: the functions of rmem.h over real memfds."""

import ctypes as c
import mmap
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cvmlab.memory.measures import MEASURES
from cvmlab.memory.records import RECORD, RECORDS_OFFSET, SHARED
from cvmlab.memory.states import Change, Event, PageState, RefusalCode, RefusedChange, Rule


class _Rule(c.Structure):
    _fields_ = (("next", c.c_uint8), ("refusal", c.c_uint8))


class _Profile(c.Structure):
    _fields_ = (
        ("name", c.c_char_p),
        ("split", c.c_bool),
        ("scrambles", c.c_bool),
        ("rules", (_Rule * len(PageState)) * len(Event)),
    )


class _Run(c.Structure):
    _fields_ = (("first", c.c_uint64), ("count", c.c_uint64), ("state", c.c_int))


class _Rmem(c.Structure):
    _fields_ = (
        ("profile", c.POINTER(_Profile)),
        ("shared", c.c_void_p),
        ("records", c.c_void_p),
        ("table", c.c_void_p),
        ("pages", c.c_uint64),
        ("table_fd", c.c_int),
        ("ring_mask", c.c_uint64),
        ("stalled_tail", c.c_uint64),
        ("flags", c.c_uint64),
        ("phase", c.c_uint64),
        ("generation", c.c_uint64),
    )


_RunFn = c.CFUNCTYPE(None, c.c_void_p, _Run, c.c_int)
_RM = c.POINTER(_Rmem)
_U64 = c.c_uint64
_PROTOTYPES = {
    "rmem_profile_find": (c.POINTER(_Profile), [c.c_char_p]),
    "rmem_profile_at": (c.POINTER(_Profile), [c.c_uint]),
    "rmem_state_name": (c.c_char_p, [c.c_int]),
    "rmem_event_name": (c.c_char_p, [c.c_int]),
    "rmem_refusal_name": (c.c_char_p, [c.c_int]),
    "rmem_init": (
        c.c_char_p,
        [_RM, c.POINTER(_Profile), c.c_void_p, c.c_size_t, c.c_void_p, _U64, c.c_int, _U64],
    ),
    "rmem_state": (c.c_int, [_RM, _U64]),
    "rmem_touch": (c.c_int, [_RM, _U64]),
    "rmem_set_launch": (None, [_RM, _U64, _U64]),
    "rmem_is_launch": (c.c_bool, [_RM, _U64]),
    "rmem_any_stale": (c.c_bool, [_RM, _U64, _U64]),
    "rmem_settle": (None, [_RM, _U64, _U64]),
    "rmem_run_at": (_Run, [_RM, _U64, _U64]),
    "rmem_check": (c.c_int, [_RM, _U64, _U64, c.c_int, c.POINTER(_U64)]),
    "rmem_apply": (c.c_int, [_RM, _U64, _U64, c.c_int, _RunFn, c.c_void_p, c.POINTER(_U64)]),
    "rmem_apply_page": (c.c_int, [_RM, _U64, c.c_int, c.POINTER(c.c_int)]),
    "rmem_reset": (None, [_RM]),
    "rmem_count": (None, [_RM, c.c_int, _U64]),
    "rmem_ring_push": (c.c_bool, [_RM, c.c_void_p]),
    "rmem_phase": (c.c_int, [_RM]),
    "rmem_set_phase": (c.c_bool, [_RM, c.c_int, c.c_int]),
    "rmem_take_phase": (None, [_RM]),
}


class Library:
    """librmem.so, with prototypes."""

    def __init__(self, path: Path) -> None:
        self.c = c.CDLL(os.fspath(path))
        for name, (result, arguments) in _PROTOTYPES.items():
            function = getattr(self.c, name)
            function.restype, function.argtypes = result, arguments

    def profiles(self) -> Iterator[_Profile]:
        index = 0
        while found := self.c.rmem_profile_at(index):
            yield found.contents
            index += 1

    def cells(self, profile: str) -> tuple[tuple[Rule, ...], ...]:
        """Return the compiled rules in the form of cvmlab.memory.states.Rules.cells."""
        found = self.c.rmem_profile_find(profile.encode())
        return tuple(
            tuple(
                Rule(state if cell.refusal else PageState(cell.next), RefusalCode(cell.refusal))
                for state, cell in zip(PageState, row, strict=True)
            )
            for row in found.contents.rules
        )


class MappedFile:
    """A memfd and its mapping, seen as bytes.  It is closed with its last user."""

    def __init__(self, size_bytes: int) -> None:
        self.fd = os.memfd_create("cvmlab-test")
        os.ftruncate(self.fd, size_bytes)
        self._closed = weakref.finalize(self, os.close, self.fd)
        self.bytes = np.frombuffer(mmap.mmap(self.fd, size_bytes), np.uint8)

    @property
    def address(self) -> int:
        return int(self.bytes.ctypes.data)

    @property
    def storage_bytes(self) -> int:
        return os.fstat(self.fd).st_blocks * 512


class CoreError(Exception):
    """rmem_init() refused; the message is its own."""


class Core:
    """One struct Rmem over files of its own, or over those of *heir_of*."""

    def __init__(
        self,
        library: Library,
        profile: str,
        pages: int,
        *,
        records: int = 64,
        flags: int = 0,
        heir_of: "Core | None" = None,
        table_fd: int | None = None,
    ) -> None:
        self.c = library.c
        ring_bytes = RECORDS_OFFSET + records * RECORD.itemsize
        self.table_file: MappedFile = heir_of.table_file if heir_of else MappedFile(max(pages, 1))
        self.ring_file: MappedFile = heir_of.ring_file if heir_of else MappedFile(ring_bytes)
        self.rm = _Rmem()
        fault = self.c.rmem_init(
            self.rm,
            self.c.rmem_profile_find(profile.encode()),
            self.ring_file.address,
            ring_bytes,
            self.table_file.address,
            pages,
            self.table_file.fd if table_fd is None else table_fd,
            flags,
        )
        if fault:
            raise CoreError(fault.decode())
        self.table: NDArray[np.uint8] = self.table_file.bytes
        self.header: np.void = self.ring_file.bytes[: SHARED.itemsize].view(SHARED)[0]
        self.records: NDArray[np.void] = self.ring_file.bytes[RECORDS_OFFSET:].view(RECORD)

    @property
    def counters(self) -> dict[str, int]:
        return {name: int(self.header["counters"][slot]) for name, slot in MEASURES.slots.items()}

    @property
    def page_counts(self) -> dict[PageState, int]:
        return {state: int(self.header["pages"][state]) for state in PageState}

    def state(self, page: int) -> PageState:
        return PageState(self.c.rmem_state(self.rm, page))

    def touch(self, page: int) -> PageState:
        return PageState(self.c.rmem_touch(self.rm, page))

    def set_launch(self, first: int, count: int) -> None:
        self.c.rmem_set_launch(self.rm, first, count)

    def is_launch(self, page: int) -> bool:
        return bool(self.c.rmem_is_launch(self.rm, page))

    def any_stale(self, first: int, count: int = 1) -> bool:
        return bool(self.c.rmem_any_stale(self.rm, first, count))

    def settle(self, first: int, count: int = 1) -> None:
        self.c.rmem_settle(self.rm, first, count)

    def run_at(self, first: int, count: int) -> tuple[int, int, PageState]:
        run = self.c.rmem_run_at(self.rm, first, count)
        return run.first, run.count, PageState(run.state)

    def runs(self, first: int, count: int) -> Iterator[tuple[int, int, PageState]]:
        end = first + count
        while first < end and (run := self.run_at(first, end - first))[1]:
            yield run
            first += run[1]

    def check(self, first: int, count: int, event: int) -> RefusedChange | None:
        bad = _U64()
        refusal = RefusalCode(self.c.rmem_check(self.rm, first, count, event, bad))
        return None if refusal is RefusalCode.OK else RefusedChange(refusal, bad.value)

    def apply(self, first: int, count: int, event: int) -> tuple[Change, ...] | RefusedChange:
        changes: list[Change] = []

        def see(_: object, run: _Run, to: int) -> None:
            changes.append(Change(run.first, run.count, PageState(run.state), PageState(to)))

        bad = _U64()
        refusal = RefusalCode(
            self.c.rmem_apply(self.rm, first, count, event, _RunFn(see), None, bad)
        )
        return tuple(changes) if refusal is RefusalCode.OK else RefusedChange(refusal, bad.value)

    def apply_page(self, page: int, event: int) -> tuple[RefusalCode, PageState]:
        """Return the answer and the state that the page was found in."""
        old = c.c_int()
        refusal = RefusalCode(self.c.rmem_apply_page(self.rm, page, event, old))
        return refusal, PageState(old.value)

    def reset(self) -> None:
        self.c.rmem_reset(self.rm)

    def push(self, record: NDArray[np.void]) -> bool:
        """Push a single record (an array of one of dtype RECORD)."""
        return bool(self.c.rmem_ring_push(self.rm, record.ctypes.data))

    @property
    def phase(self) -> int:
        return int(self.c.rmem_phase(self.rm))

    def set_phase(self, before: int, after: int) -> bool:
        return bool(self.c.rmem_set_phase(self.rm, before, after))

    def take_phase(self) -> None:
        self.c.rmem_take_phase(self.rm)

    def drain(self) -> NDArray[np.void]:
        """Take everything published, as the controller's reader does."""
        tail, head = int(self.header["tail"]), int(self.header["head"])
        taken = self.records[np.arange(tail, head) % len(self.records)]
        self.header["tail"] = head
        return taken
