# SPDX-License-Identifier: GPL-2.0-or-later
"""Name what a journal's addresses were: functions of the kernel and of modules, and who called.

What cannot be named is said, once for each reason.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import numpy as np

from cvmlab.boot.plan import Plan
from cvmlab.images.symbols import Symbols
from cvmlab.memory.journal import Records
from cvmlab.memory.records import Phase
from cvmlab.memory.stacks import StackWindow, Windows
from cvmlab.results import phases
from cvmlab.results.callers import Callers, NamedChain
from cvmlab.unwind import modules, slide
from cvmlab.unwind.chain import CodePlace, Method, Unwinder
from cvmlab.unwind.code import Code
from cvmlab.unwind.modules import LoadedModule, ModuleCode


_MIN_FIT = 0.2  # of the code words on the stacks that follow a call, or the symbols do not fit


@final
@dataclass(frozen=True)
class Naming:
    """One run: its journal, the windows of its stacks, and where its modules were."""

    plan: Plan
    records: Records
    windows: Windows = field(default_factory=Windows.none)
    loaded: tuple[LoadedModule, ...] = ()

    def resolve(self, address: int) -> str | None:
        """Return ``function+0x12``, or ``function+0x12 [module]``, or None."""
        # Firmware addresses have no name in Linux: do not load 160 000 symbols for them.
        if self.plan.is_linux and address < self.plan.spec.architecture.symbols.kernel_space:
            return None
        symbols = self._symbols
        found = None if symbols is None else symbols.resolve(address)
        return found or self._in_module(address)

    @cached_property
    def callers(self) -> Callers:
        """The chain of each window, named."""
        thin = self.plan.spec.profile.thin_functions
        if self._slide is None:
            return Callers({}, thin)
        unwinder = Unwinder(self._code, self._slide, self._place_in_module)
        chains = {
            number: self._named(unwinder, window)
            for number, window in self.windows.by_number.items()
        }
        return Callers(chains, thin)

    def problems(self) -> tuple[str, ...]:
        """Say why some functions have no name; nothing if all have one."""
        return tuple(self._problems())

    def _problems(self) -> Iterable[str]:
        if not self.plan.is_linux or not len(self._kernel_rips):
            return
        if self._symbols is None:
            reason = self.plan.symbols.problem or (
                "KASLR has moved the kernel, and nothing tells how far; boot it with nokaslr"
            )
            yield f"the guest's functions have no names: {reason}"
            return
        if not self._fit:
            yield (
                "the guest's functions may have wrong names: the kernel that runs does not fit the "
                "symbols (another kernel, or KASLR)"
            )
        nameless = [rip for rip in self._kernel_rips if self.resolve(rip) is None]
        if nameless:
            yield f"{len(nameless)} instructions have no name, the first at {nameless[0]:#x}{self._hint}"
        if self.windows.missed:
            yield f"{self.windows.missed} events have no callers: there were too many different ones"

    @property
    def _hint(self) -> str:
        return "" if self.loaded else "; they may be of modules, of which only the agent tells"

    @cached_property
    def _kernel_rips(self) -> list[int]:
        found = np.unique(self.records["rip"])
        kernel_space = np.uint64(self.plan.spec.architecture.symbols.kernel_space)
        return [int(rip) for rip in found[found >= kernel_space]]

    @cached_property
    def _code(self) -> Code:
        return self.plan.code.get()

    @cached_property
    def _words(self) -> Sequence[int]:
        """All words of the windows that may be code."""
        lowest = self.plan.spec.architecture.symbols.kernel_space
        return [
            word
            for window in self.windows.by_number.values()
            for word in window.words.tolist()
            if word >= lowest
        ]

    @cached_property
    def _slide(self) -> int | None:
        if self.plan.fixed_addresses:
            return 0
        if not len(self._kernel_rips) and not self.windows.by_number:
            return None
        rules = self.plan.spec.architecture.symbols
        found = slide.find(self._words, self._code.returns, rules)
        return self._slide_of_entry() if found is None else found.distance

    def _slide_of_entry(self) -> int | None:
        """The kernel's first instruction is in one of few functions."""
        rules = self.plan.spec.architecture.symbols
        entry = phases.first_rip(self.records, Phase.KERNEL)
        loaded = self.plan.symbols.get() if entry is not None else None
        if loaded is None or entry is None:
            return None
        return loaded.infer_slide([entry], rules.entry_functions, rules)

    @cached_property
    def _symbols(self) -> Symbols | None:
        if self._slide is None:
            self.plan.symbols.get()  # its problem, if it has one, is the better reason
            return None
        loaded = self.plan.symbols.get()
        return None if loaded is None else loaded.with_slide(self._slide)

    @cached_property
    def _fit(self) -> bool:
        """Whether the stacks are those of a kernel with this code."""
        words = set(self._words)
        if not self._code.parts or len(words) < 2 or self._slide is None:
            return True  # nothing speaks against it
        at = self._slide
        inside = [word for word in words if word - at in self._code]
        fitting = sum(self._code.follows_call(word - at) for word in inside)
        return not inside or fitting >= _MIN_FIT * len(inside)

    def _named(self, unwinder: Unwinder, window: StackWindow) -> NamedChain:
        chain = unwinder.unwind(window)
        # A call returns to the instruction after it, which may be of another function.
        calls = [self.resolve(chain.addresses[0]) or f"{chain.addresses[0]:#x}"]
        calls += [self.resolve(at - 1) or f"{at:#x}" for at in chain.addresses[1:]]
        scanned = (at for at, method in enumerate(chain.methods) if method is Method.SCAN)
        return NamedChain(tuple(calls), next(scanned, None))

    def _in_module(self, address: int) -> str | None:
        module = modules.find(self.loaded, address)
        if module is None:
            return None
        offset, known = address - module.address, self._module_code(module.name)
        call = None if known is None else known.call(offset)
        return f"[{module.name}]+{offset:#x}" if call is None else f"{call} [{module.name}]"

    def _place_in_module(self, address: int) -> CodePlace | None:
        module = modules.find(self.loaded, address)
        if module is None:
            return None
        known = self._module_code(module.name)
        if known is None:
            return CodePlace(Code(), module.address)
        inside = address - module.address in known.code
        return CodePlace(known.code, module.address) if inside else None

    def _module_code(self, name: str) -> ModuleCode | None:
        if name not in self._read:
            content = self.plan.module_file(name)
            self._read[name] = None if content is None else modules.read(content, self._code.orc)
        return self._read[name]

    @cached_property
    def _read(self) -> dict[str, ModuleCode | None]:
        return {}
