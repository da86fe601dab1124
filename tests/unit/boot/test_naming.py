# SPDX-License-Identifier: GPL-2.0-or-later
"""What cannot be named is said once, with the reason."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from cvmlab.base.errors import ImageError
from cvmlab.boot.naming import Naming
from cvmlab.images.symbols import LazySymbols, Symbol, Symbols
from cvmlab.machine.spec import BootSpec
from cvmlab.memory.records import Kind
from cvmlab.memory.stacks import StackWindow, Windows
from cvmlab.unwind.code import Code, LazyCode
from cvmlab.unwind.modules import LoadedModule
from tests.fakes import journals as make


if TYPE_CHECKING:
    from cvmlab.boot.plan import Plan

TEXT = 0xFFFF_FFFF_8100_0000
MODULE = 0xFFFF_FFFF_C000_1000
CALLS = bytes(11) + b"\xe8\x00\x00\x00\x00"  # a call at the end of each 16 bytes


_END = Symbol(TEXT + 0x1000, "", text=False)


def two_functions() -> Symbols:
    return Symbols.of([Symbol(TEXT, "first"), Symbol(TEXT + 0x800, "second"), _END])


@dataclass
class Planned:
    """The part of a Plan that naming looks at."""

    spec: BootSpec = field(default_factory=lambda: BootSpec(coco="tdx"))
    is_linux: bool = True
    fixed_addresses: bool = True
    symbols: LazySymbols = field(default_factory=lambda: LazySymbols(two_functions))
    code: LazyCode = field(default_factory=lambda: LazyCode(lambda: Code(((TEXT, CALLS * 256),))))

    def module_file(self, name: str) -> bytes | None:
        return None


def naming(*rips: int, words: tuple[int, ...] = (), modules: Any = (), **planned: Any) -> Naming:
    records = make.journal(*(make.row(Kind.CONVERT, 1, rip=rip, stack=1) for rip in rips))
    window = StackWindow(rips[0], 0, np.array(words, np.uint64))
    plan = cast("Plan", Planned(**planned))
    return Naming(plan, records, Windows({1: window} if words else {}), modules)


def test_what_has_a_name_has_no_problem() -> None:
    found = naming(TEXT + 8, 0x7000, words=(TEXT + 0x810, 0, TEXT + 0x20))
    assert found.problems() == ()
    assert found.resolve(TEXT + 8) == "first+0x8"
    assert found.resolve(0x7000) is None
    assert found.callers.chains[1].calls == ("first+0x8", "second+0xf", "first+0x1f")


@pytest.mark.fault("F21")
def test_symbols_that_cannot_be_read_are_the_reason() -> None:
    def broken() -> Symbols:
        raise ImageError("the ELF file is damaged")

    found = naming(TEXT + 8, symbols=LazySymbols(broken))
    assert found.problems() == ("the guest's functions have no names: the ELF file is damaged",)


@pytest.mark.fault("F21")
def test_a_slide_that_nothing_tells_is_the_reason() -> None:
    found = naming(TEXT + 8, fixed_addresses=False)
    assert found.resolve(TEXT + 8) is None
    (problem,) = found.problems()
    assert "KASLR has moved the kernel, and nothing tells how far" in problem


@pytest.mark.fault("F21")
def test_symbols_of_another_kernel_are_noticed() -> None:
    words = tuple(TEXT + 16 * at + 7 for at in range(20))  # where no call returns to
    (problem,) = naming(TEXT + 8, words=words).problems()
    assert "does not fit the symbols" in problem


@pytest.mark.fault("F21")
def test_modules_have_names_as_far_as_the_agent_tells() -> None:
    (problem,) = naming(TEXT + 8, MODULE + 4).problems()
    assert problem.startswith(f"1 instructions have no name, the first at {MODULE + 4:#x}")
    told = naming(TEXT + 8, MODULE + 4, modules=(LoadedModule("dm", 4096, MODULE),))
    assert told.problems() == ()
    assert told.resolve(MODULE + 4) == "[dm]+0x4"
