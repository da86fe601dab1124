# SPDX-License-Identifier: GPL-2.0-or-later
"""Name the causes of a verdict: the page, the device, the guest's functions.  Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from cvmlab.memory.measures import MEASURES, Measures
from cvmlab.results.result import BudgetLine, FunctionCount, HostAccess


_NAMED = 3  # functions in one sentence


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about one run."""

    faults: tuple[HostAccess, ...] = ()
    functions: tuple[FunctionCount, ...] = ()
    measures: Measures = MEASURES

    def of(self, line: BudgetLine) -> str | None:
        """Name what is behind the count of *line*, or return None if that is not known."""
        limited = self.measures.limited_by(self.measures.budget(line.resource))
        names = {row.name for row in limited}
        if "host_faults" in names:
            return _first_fault(self.faults)
        return most(
            function
            for function in self.functions
            if function.change in names and line.phase in (None, function.phase)
        )


def most(functions: Iterator[FunctionCount]) -> str | None:
    """Say which functions changed the most pages: ``512 in set_memory_decrypted``."""
    pages: dict[str, int] = {}
    for function in functions:
        if function.symbol is not None:
            pages[function.symbol] = pages.get(function.symbol, 0) + function.pages
    ordered = sorted(pages.items(), key=lambda item: -item[1])[:_NAMED]
    return ", ".join(f"{count} in {symbol}" for symbol, count in ordered) or None


def _first_fault(faults: tuple[HostAccess, ...]) -> str | None:
    if not faults:
        return None
    fault = faults[0]
    way = "wrote" if fault.write else "read"
    where = fault.symbol or (f"{fault.rip:#x}" if fault.rip else None)
    during = f", guest in {where}" if where else ""
    return f"first {fault.who} {way} {fault.what}{during}"
