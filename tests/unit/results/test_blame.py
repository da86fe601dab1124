# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts name pages, devices and functions."""

import pytest

from cvmlab.memory.records import Kind, Phase
from cvmlab.memory.states import PageState
from cvmlab.results import budgets, summary
from cvmlab.results.blame import Evidence
from cvmlab.results.budgets import Ending
from cvmlab.results.callers import Callers, NamedChain
from cvmlab.results.result import BudgetLine, FunctionCount, HostAccess
from tests.fakes import journals as make


KERNEL_RIP = 0xFFFF_FFFF_8100_0040
NAMES = {KERNEL_RIP: "set_memory+0x40", KERNEL_RIP + 4: "set_memory+0x44", 0x1000: "probe+0x0"}


def converted(page: int, pages: int, rip: int, after: PageState) -> make.Records:
    before = PageState.PRIVATE if after is PageState.SHARED else PageState.SHARED
    fields = {"gpa": page << 12, "pages": pages, "rip": rip, "from": before, "to": after}
    return make.row(Kind.CONVERT, 10, **fields)


def functions(phase: str, change: str, **pages: int) -> tuple[FunctionCount, ...]:
    return tuple(
        FunctionCount(phase=phase, change=change, symbol=symbol, pages=count, requests=1)
        for symbol, count in pages.items()
    )


def test_pages_are_counted_by_phase_change_and_function() -> None:
    records = make.journal(
        make.phase(Phase.FIRMWARE, 1),
        converted(1, 5, 0, PageState.SHARED),
        make.phase(Phase.KERNEL, 2),
        converted(16, 3, KERNEL_RIP, PageState.SHARED),
        converted(32, 4, KERNEL_RIP + 4, PageState.SHARED),
        converted(16, 1, 0x1000, PageState.PRIVATE),
        make.accepted(100, 2, 3),
    )

    found = [
        (item.phase, item.change, item.symbol, item.pages, item.requests)
        for item in summary.functions(records, NAMES.get)
    ]

    assert found == [
        ("firmware", "to_shared", None, 5, 1),
        ("kernel", "accepted", None, 2, 2),
        ("kernel", "to_shared", "set_memory", 7, 2),
        ("kernel", "to_private", "probe", 1, 1),
    ]


def test_only_the_first_functions_are_kept_for_each_phase_and_change() -> None:
    records = make.journal(
        *(converted(page, page, 0x1000 * page, PageState.SHARED) for page in (1, 3, 2))
    )

    found = summary.functions(records, "at_{:x}+0".format, limit=2)

    assert [(item.symbol, item.pages) for item in found] == [("at_3000", 3), ("at_2000", 2)]


def line(resource: str, phase: str | None = None) -> BudgetLine:
    return BudgetLine(resource=resource, phase=phase, limit=0, measured=9, kept=False)


def test_a_broken_budget_names_the_functions_of_its_phase_and_changes() -> None:
    evidence = Evidence(
        functions=(
            *functions("firmware", "to_shared", early=100),
            *functions("kernel", "to_shared", init=5, dma=2, a=1, b=1),
            *functions("kernel", "to_private", dma=6),
            *functions("kernel", "accepted", accept=70),
        )
    )

    assert evidence.of(line("conversions", "kernel")) == "8 in dma, 5 in init, 1 in a"
    assert evidence.of(line("conversions")) == "100 in early, 8 in dma, 5 in init"
    assert evidence.of(line("accepts", "kernel")) == "70 in accept"
    assert evidence.of(line("accepts", "user")) is None
    message = budgets.judge(Ending(), [line("accepts")], evidence.of).message
    assert message == "9 accepted pages, 0 are allowed: 70 in accept"


def test_host_faults_name_the_first_device_page_and_function() -> None:
    fault = HostAccess(
        actor="device", device="net0-pci", gpa=0x5000, write=True, state="private",
        rip=0x1000, symbol="kick+0x1", verdict="deny", count=1,
    )  # fmt: skip

    assert Evidence(faults=(fault,)).of(line("faults")) == (
        "first device net0-pci wrote 0x5000 (private), guest in kick+0x1"
    )
    assert Evidence().of(line("faults")) is None


@pytest.mark.fault("V3")
def test_what_called_a_thin_function_is_blamed_for_its_changes() -> None:
    leaf = KERNEL_RIP + 0x100
    records = make.journal(
        make.phase(Phase.KERNEL, 1),
        *(
            make.row(
                Kind.CONVERT, 10, gpa=page << 12, pages=pages, rip=leaf, stack=stack,
                before=PageState.PRIVATE, after=PageState.SHARED,
            )
            for page, pages, stack in ((1, 4, 1), (8, 16, 2), (32, 1, 1), (40, 2, 3), (48, 8, 9))
        ),
    )  # fmt: skip
    thin = ("__tdcall*", "set_memory_decrypted")
    chains = {
        1: NamedChain(
            ("__tdcall_saved_ret+0x2", "set_memory_decrypted+0x9", "dma_alloc+0x1", "probe+0x4")
        ),
        2: NamedChain(("__tdcall_saved_ret+0x2", "swiotlb_init+0x3")),
        3: NamedChain(("__tdcall_saved_ret+0x2", "set_memory_decrypted+0x9")),
    }
    callers = Callers(chains, thin)

    found = summary.functions(records, {leaf: "__tdcall_saved_ret+0x2"}.get, callers)
    counts = {item.symbol: item.pages for item in found}

    # 3 has thin functions only, 9 no window: then the leaf is all that is known.
    assert counts == {"swiotlb_init": 16, "__tdcall_saved_ret": 10, "dma_alloc": 5}
    listed = summary.conversions(records, {}, {leaf: "__tdcall_saved_ret+0x2"}.get, callers)
    assert [(item.symbol, item.callers, item.requests) for item in listed] == [
        ("swiotlb_init", (), 1),
        ("__tdcall_saved_ret", (), 2),
        ("dma_alloc", ("probe",), 2),
    ]
    evidence = Evidence(functions=found)
    assert evidence.of(line("conversions")) == (
        "16 in swiotlb_init, 10 in __tdcall_saved_ret, 5 in dma_alloc"
    )
