# SPDX-License-Identifier: GPL-2.0-or-later
"""Unwind a window of a stack into the addresses of its calls.  Pure.

First by the ORC tables of the kernel, as arch/x86/kernel/unwind_orc.c does.  Where they end (code of
modules has none in the kernel's file) by frame pointers, if the word there is a frame, or else by
the next word that is a return address, which is a guess: then the chain is called a scan.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from cvmlab.memory.stacks import STACK_SPAN, StackWindow
from cvmlab.unwind.code import Code
from cvmlab.unwind.orc import Base, FrameType, Row


MAX_CALLS: Final = 64
_WORD: Final = 8
# struct pt_regs (arch/x86/include/asm/ptrace.h): offsets, and its size.
_REGS_BP, _REGS_IP, _REGS_SP, _REGS_SIZE = 4 * 8, 16 * 8, 19 * 8, 21 * 8
# The part that the processor pushes: IP first, SP fourth.
_IRET_IP, _IRET_SP = 0, 3 * 8


class Method(StrEnum):
    """How a chain was found; the last one is a guess."""

    ORC = "orc"
    FRAME_POINTER = "frame-pointer"
    SCAN = "scan"


@dataclass(frozen=True, slots=True)
class Chain:
    """Addresses in the running kernel, the innermost first; ``methods`` says how each was found."""

    addresses: tuple[int, ...]
    methods: tuple[Method, ...]

    @property
    def is_scan(self) -> bool:
        return Method.SCAN in self.methods


@dataclass(frozen=True, slots=True, eq=False)
class CodePlace:
    """Code in the running kernel: *base* is what to subtract from an address to look there."""

    code: Code
    base: int


@dataclass(slots=True)
class _State:
    ip: int
    sp: int  # distances from the stack pointer of the window
    bp: int | None
    exact: bool = True  # ip is an instruction, not where a call returns to


@dataclass(frozen=True, slots=True, eq=False)
class Unwinder:
    """What is known of the running kernel.

    ``slide`` is how far it runs above its linked address.  ``module`` returns what is at an address
    of a module: its code, which may be unknown, and where that is; None if there is no module.
    """

    code: Code
    slide: int = 0
    module: Callable[[int], "CodePlace | None"] = field(default=lambda _address: None)

    def unwind(self, window: StackWindow) -> Chain:
        """Return the chain of calls of *window*, as far as it can be followed."""
        found = [window.pc]
        methods: list[Method] = [Method.ORC]
        state = _State(window.pc, 0, window.frame or None)
        while len(found) < MAX_CALLS:
            step = self._step(window, state)
            if step is None:
                break
            state, method = step
            found.append(state.ip)
            methods.append(method)
        return Chain(tuple(found), tuple(methods))

    def _step(self, window: StackWindow, state: _State) -> tuple[_State, Method] | None:
        place = self._place(state.ip)
        row = _row(place, state)
        if row is not None and row.type is FrameType.END_OF_STACK:
            return None
        if row is not None and row.type is not FrameType.UNDEFINED:
            after = _by_row(window, state, row)
            if after is not None and self._is_code(after):
                return after, Method.ORC
        if place is None or place.code.orc is None:
            after = _by_frame(window, state)
            if after is not None and self._is_return(after.ip):
                return after, Method.FRAME_POINTER
        return self._scan(window, state)

    def _place(self, address: int) -> CodePlace | None:
        if address - self.slide in self.code:
            return CodePlace(self.code, self.slide)
        return self.module(address)

    def _scan(self, window: StackWindow, state: _State) -> tuple[_State, Method] | None:
        """Go on at the next word that is where a call returns to."""
        for index in range(max(-(-state.sp // _WORD), 0), len(window.words)):
            if self._is_return(word := int(window.words[index])):
                return _State(word, (index + 1) * _WORD, None, exact=False), Method.SCAN
        return None

    def _is_code(self, state: _State) -> bool:
        return self._is_return(state.ip) if not state.exact else self._place(state.ip) is not None

    def _is_return(self, address: int) -> bool:
        place = self._place(address)
        if place is None:
            return False
        return not place.code.parts or place.code.follows_call(address - place.base)


def _row(place: CodePlace | None, state: _State) -> Row | None:
    if place is None or place.code.orc is None:
        return None
    return place.code.orc.find(state.ip - place.base - (0 if state.exact else 1))


def _by_row(window: StackWindow, state: _State, row: Row) -> _State | None:
    frame = _frame(window, state, row)
    if frame is None or not 0 <= frame <= STACK_SPAN or frame % _WORD:
        return None
    ip: int | None
    sp: int | None
    match row.type:
        case FrameType.CALL:
            ip, sp, bp = _code(window, frame - _WORD), frame, state.bp
        case FrameType.REGS:
            ip, sp = _code(window, frame + _REGS_IP), _inside(window, frame + _REGS_SP)
            bp = _inside(window, frame + _REGS_BP)
        case FrameType.REGS_PARTIAL:
            ip, sp = _code(window, frame + _IRET_IP), _inside(window, frame + _IRET_SP)
            bp = state.bp
        case _:
            return None
    if ip is None or sp is None or sp <= state.sp:
        return None
    if row.bp_base is Base.PREV_SP:
        bp = _inside(window, frame + row.bp_offset)
    elif row.bp_base is Base.BP:
        bp = None if state.bp is None else _inside(window, state.bp + row.bp_offset)
    return _State(ip, sp, bp, exact=row.type is not FrameType.CALL)


def _frame(window: StackWindow, state: _State, row: Row) -> int | None:
    """Return the caller's stack pointer, or where saved registers are."""
    match row.sp_base:
        case Base.SP:
            return state.sp + row.sp_offset
        case Base.BP:
            return None if state.bp is None else state.bp + row.sp_offset
        case Base.SP_INDIRECT:
            there = _inside(window, state.sp)
            return None if there is None else there + row.sp_offset
        case Base.BP_INDIRECT:
            return None if state.bp is None else _inside(window, state.bp + row.sp_offset)
        case _:
            return None


def _by_frame(window: StackWindow, state: _State) -> _State | None:
    """Follow a frame pointer: it points at the caller's, with the return address above."""
    if state.bp is None or state.bp < state.sp:
        return None
    ip = _code(window, state.bp + _WORD)
    if ip is None:
        return None
    return _State(ip, state.bp + 2 * _WORD, _inside(window, state.bp), exact=False)


def _word(window: StackWindow, at: int) -> int:
    index, rest = divmod(at, _WORD)
    return int(window.words[index]) if not rest and 0 <= index < len(window.words) else 0


def _code(window: StackWindow, at: int) -> int | None:
    word = _word(window, at)
    return word if word > STACK_SPAN else None


def _inside(window: StackWindow, at: int) -> int | None:
    """Return the distance that stands for an address in this stack, None for anything else."""
    word = _word(window, at)
    return word if 0 < word <= STACK_SPAN else None
