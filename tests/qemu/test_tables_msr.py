# SPDX-License-Identifier: GPL-2.0-or-later
"""The bare guest walks the MSR tables: each row is obeyed, or is a deviation of docs/deviations.md."""

from typing import Any

import pytest

from tests.guest_tables import Row, tables
from tests.qemu.bare import BareGuest, Fault
from tests.qemu.bare_machine import BareMachine
from tests.qemu.conftest import Boot
from tests.qemu.snp import MSR, RAISE_EXCEPTION, VECTOR_VC, Ghcb
from tests.qemu.tdx import INVALID_OPERAND, RDMSR, WRMSR, become_td, vmcall


pytestmark = pytest.mark.qemu

VECTOR_GP, VECTOR_VE = 13, 20
INJECT_GP = 1 << 31 | 1 << 11 | 3 << 8 | 13
MODES: Any = [
    ("tdx", "lazy"), ("tdx", "strict"), ("sev-es", "lazy"), ("sev-es", "strict"),
    ("sev-snp", "lazy"), ("sev-snp", "strict"),
]  # fmt: skip
# What our guests have of the features that rows need.
FEATURES = {"tdx": {"always", "avx", "pku"}, "sev": {"always", "tsc-aux"}}
EFER, GHCB_MSR, APIC_BASE = 0xC000_0080, 0xC001_0130, 0x1B
ESR = 0x828  # takes 0 only
X2APIC = 0xFEE0_0000 | 0xD00
# A write there sends an interrupt, or ends the way to the host.
NOT_WRITTEN = {0x830, 0x83F, GHCB_MSR}
UNLISTED = (0x2, 0x200F, 0x4000_0000, 0xC000_1FFF, 0xC000_2000, 0xC001_0030, 0xFFFF_FFFF)


def technology(coco: str) -> str:
    return "tdx" if coco == "tdx" else "sev"


def row_of(kind: str, coco: str, index: int) -> Row | None:
    rows = tables(technology(coco))[kind]
    return next((row for row in rows if row["first"] <= index <= row["last"]), None)


def indexes(coco: str) -> list[int]:
    """Return the ends of each row of both tables, and MSRs without a row."""
    rows = (*tables(technology(coco))["msr"], *tables(technology(coco))["host-msr"])
    ends = {index for row in rows for index in (row["first"], row["last"])}
    return sorted(ends.union(UNLISTED))


def in_guest(coco: str, index: int, direction: str) -> str:
    """Return what the guest's table says of an access."""
    row = row_of("msr", coco, index)
    if row is None:
        return "exception"
    has = row["when"] in FEATURES[technology(coco)]
    return str(row[direction] if has else row["otherwise"])


def by_host(coco: str, index: int, direction: str) -> str:
    """Return what the host's table says of an access."""
    row = row_of("host-msr", coco, index)
    kept = coco != "tdx" and in_guest(coco, index, direction) == "native"
    return "refuse" if row is None or kept else str(row[direction])


def expected(coco: str, mode: str, index: int, direction: str) -> set[str]:
    """Return the outcomes of an access that the tables allow."""
    word = in_guest(coco, index, direction)
    if word == "exception" and mode == "strict":
        return {"trap"}
    if word == "exception":
        return {"gp"} if by_host(coco, index, direction) == "refuse" else {"ok"}
    if word == "gp" or (word, direction) == ("perf-capabilities", "write"):
        return {"gp"}
    return {"ok"}


def outcome(coco: str, direction: str, answer: tuple[int, ...] | Fault) -> str:
    """Return what has happened in a word."""
    if not isinstance(answer, Fault):
        return "ok"
    reason = {"read": RDMSR, "write": WRMSR}[direction] if coco == "tdx" else MSR
    traps = (VECTOR_VE if coco == "tdx" else VECTOR_VC, reason)
    return {(VECTOR_GP, 0): "gp", traps: "trap"}.get((answer.vector, answer.error), str(answer))


def options(coco: str, mode: str) -> dict[str, Any]:
    """Return what boots a guest in a mode."""
    name = "ve" if coco == "tdx" else "vc"
    return {"coco": coco, "guest_options": (f"{name}={mode}",)}


def begin(vm: BareMachine) -> BareGuest:
    """Have the guest be one of its technology, with its APIC in x2APIC mode."""
    if vm.spec.coco == "tdx":
        become_td(vm)
    elif "vc=strict" in vm.spec.guest_options:
        Ghcb(vm.guest).exit(MSR, 1, rcx=APIC_BASE, rax=X2APIC, rdx=0)
    else:
        vm.guest.done("wrmsr", APIC_BASE, X2APIC)
    return vm.guest


def is_deviation(coco: str, index: int) -> bool:
    rows = (row_of(kind, coco, index) for kind in ("msr", "host-msr"))
    return any(row is not None and "deviation" in row for row in rows)


@pytest.mark.fault("F11", "F9")
@pytest.mark.parametrize(("coco", "mode"), MODES)
async def test_each_msr_is_read_and_written_as_the_tables_say(
    boot: Boot, coco: str, mode: str
) -> None:
    wrong: list[tuple[str, str, str]] = []
    async with boot(**options(coco, mode)) as vm:
        guest = begin(vm)
        for index in indexes(coco):
            answer = guest.run("rdmsr", index)
            value = answer[0] if isinstance(answer, tuple) and index != ESR else 0
            found = {"read": outcome(coco, "read", answer)}
            if index not in NOT_WRITTEN:
                found["write"] = outcome(coco, "write", guest.run("wrmsr", index, value))
            wrong += [
                (f"{index:#x} {direction}", word, str(expected(coco, mode, index, direction)))
                for direction, word in found.items()
                if word not in expected(coco, mode, index, direction)
                and not is_deviation(coco, index)
            ]
    assert wrong == []


@pytest.mark.parametrize(("coco", "mode"), [("tdx", "lazy"), ("tdx", "strict")])
async def test_values_that_the_tables_name(boot: Boot, coco: str, mode: str) -> None:
    async with boot(**options(coco, mode)) as vm:
        guest = begin(vm)
        for row in tables("tdx")["msr"]:
            if row["read"] == "value":
                assert guest.value("rdmsr", row["first"]) == row["value"], hex(row["first"])
        capabilities = guest.value("rdmsr", 0x10A)
        for row in tables("tdx")["arch-capability"]:
            bits = range(row["first"], row["last"] + 1)
            shown = {capabilities >> bit & 1 for bit in bits}
            if "deviation" not in row and row["td"] in ("one", "zero"):
                assert shown == {int(row["td"] == "one")}, row["name"]
        assert guest.value("rdmsr", 0x10) < guest.value("rdmsr", 0x10)
        assert guest.value("rdmsr", 0x1A0) & (1 << 7 | 1 << 12) == 1 << 12


@pytest.mark.parametrize(
    ("index", "value", "vector"),
    [
        (EFER, 0xD01 ^ 1, None),  # SCE may change
        (EFER, 0xD01 ^ 1 << 11, VECTOR_VE),
        (EFER, 0xD01 ^ 1 << 10, None),  # LMA is ignored
        (0x1D9, 1, None),
        (0x1D9, 1 << 3, VECTOR_GP),
        (0x1D9, 1 << 6, VECTOR_VE),
        (0x1D9, 3 << 6, None),
        (0xDA0, 1 << 11, VECTOR_GP),
        (0xDA0, 0, None),
        (0x10, 0, VECTOR_VE),
        (0x345, 0, VECTOR_GP),
    ],
)
async def test_writes_whose_value_matters(
    boot: Boot, index: int, value: int, vector: int | None
) -> None:
    async with boot(**options("tdx", "strict")) as vm:
        guest = begin(vm)
        assert guest.value("rdmsr", EFER) == 0xD01
        answer = guest.run("wrmsr", index, value)
        assert (answer.vector if isinstance(answer, Fault) else None) == vector


@pytest.mark.fault("Q8", "F9")
async def test_tdvmcall_answers_as_the_host_table_says(boot: Boot) -> None:
    """A refusal is the interface's, and registers and strict mode are as before."""
    async with boot(**options("tdx", "strict")) as vm:
        guest = begin(vm)
        for index in indexes("tdx"):
            for function, direction in ((RDMSR, "read"), (WRMSR, "write")):
                if direction == "write" and index in NOT_WRITTEN:
                    continue
                value = vmcall(guest, RDMSR, r12=index).r11 if index != ESR else 0
                answer = vmcall(guest, function, r12=index, r13=value, r14=0x14, r15=0x15)
                refused = by_host("tdx", index, direction) == "refuse"
                assert answer.r10 == (INVALID_OPERAND if refused else 0), (hex(index), direction)
                assert (answer.r12, answer.r14, answer.r15) == (index, 0x14, 0x15)
        for index, value in ((0x1B, 1), (0x6E1, 1 << 32), (0x80F, 1 << 32), (0x828, 1)):
            assert vmcall(guest, WRMSR, r12=index, r13=value).r10 == INVALID_OPERAND
        assert guest.fault("rdmsr", 0x1B).vector == VECTOR_VE  # strict all the same


@pytest.mark.fault("Q8", "F9")
@pytest.mark.parametrize("coco", ["sev-es", "sev-snp"])
async def test_a_ghcb_answers_as_the_host_table_says(boot: Boot, coco: str) -> None:
    """A refusal is the interface's, and strict mode is as before."""
    async with boot(**options(coco, "strict")) as vm:
        guest = begin(vm)
        ghcb = Ghcb(guest)
        for index in indexes(coco):
            if index == GHCB_MSR:
                continue
            answer = ghcb.exit(MSR, 0, rcx=index)
            refused = by_host(coco, index, "read") == "refuse"
            status = (RAISE_EXCEPTION, INJECT_GP) if refused else (0, 0)
            assert answer.status == status, (hex(index), "read")
            if index in NOT_WRITTEN:
                continue
            value = 0 if refused or index == ESR else answer.rax | answer.rdx << 32
            answer = ghcb.exit(MSR, 1, rcx=index, rax=value & 0xFFFFFFFF, rdx=value >> 32)
            refused = by_host(coco, index, "write") == "refuse"
            status = (RAISE_EXCEPTION, INJECT_GP) if refused else (0, 0)
            assert answer.status == status, (hex(index), "write")
        assert guest.fault("rdmsr", 0x1B).error == MSR  # strict all the same
