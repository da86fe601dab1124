# SPDX-License-Identifier: GPL-2.0-or-later
"""Who did what a verdict is about: the page, the device, the guest's functions.  Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cvmlab.budgets import Resource
from cvmlab.records import Kind
from cvmlab.result import BudgetLine, Fault, FunctionCount
from cvmlab.states import PageState
from cvmlab.summary import Records, Resolve


_NAMED = 3  # functions in one sentence
_CHANGES = {
    Resource.ACCEPTS: ("accepted",),
    Resource.CONVERSIONS: ("to_shared", "to_private"),
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about one run."""

    faults: tuple[Fault, ...] = ()
    functions: tuple[FunctionCount, ...] = ()

    def of(self, line: BudgetLine) -> str | None:
        """Say who is behind the count of *line*, or None if nobody can be named."""
        resource = Resource(line.resource)
        if resource is Resource.FAULTS:
            return _first_fault(self.faults)
        return most(
            function
            for function in self.functions
            if function.change in _CHANGES[resource] and line.phase in (None, function.phase)
        )


def most(functions: Iterator[FunctionCount]) -> str | None:
    """Say which functions changed the most pages: ``512 in set_memory_decrypted``."""
    pages: dict[str, int] = {}
    for function in functions:
        if function.symbol is not None:
            pages[function.symbol] = pages.get(function.symbol, 0) + function.pages
    ordered = sorted(pages.items(), key=lambda item: -item[1])[:_NAMED]
    return ", ".join(f"{count} in {symbol}" for symbol, count in ordered) or None


def _first_fault(faults: tuple[Fault, ...]) -> str | None:
    if not faults:
        return None
    fault = faults[0]
    actor = f"{fault.actor} {fault.device}" if fault.device else fault.actor
    way = "wrote" if fault.write else "read"
    where = fault.symbol or (f"{fault.rip:#x}" if fault.rip else None)
    during = f", guest in {where}" if where else ""
    return f"first {actor} {way} {fault.gpa:#x} ({fault.state}){during}"


def early_use(records: Records, resolve: Resolve) -> str | None:
    """Say which page the guest touched too early, from the last record of it; None: there is none."""
    touched = (records["kind"] == Kind.GUEST_FAULT) & (records["from"] != PageState.POISONED)
    if not np.any(touched):
        return None
    record = records[touched][-1]
    rip = int(record["rip"])
    where = (resolve(rip) or f"{rip:#x}") if rip else None
    inside = f", in {where}" if where else ""
    state = PageState(int(record["from"])).word
    page = f"page {int(record['gpa']) & ~0xFFF:#x} ({state})"
    return f"the guest touched {page} before it had accepted it{inside}"
