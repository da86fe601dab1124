# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface of TDX as tests write it: leaves, status codes, VMCALL functions.

Numbers are those of the TDX Module v1.5 ABI specification and of GHCI, written here by hand: never
take them from the plugin, which they check.
"""

from tests.qemu.bare import BareGuest, Fault, Registers
from tests.qemu.bare_machine import BareMachine


VMCALL, INFO, RTMR_EXTEND, VEINFO_GET, REPORT, CPUIDVE_SET, PAGE_ACCEPT = range(7)
VM_RD, VM_WR, VP_RD, VP_WR, SYS_RD, SYS_RDALL = range(7, 13)
VERIFYREPORT, PAGE_ATTR_RD, PAGE_ATTR_WR, VP_ENTER, VP_INVEPT, VP_INVGLA = range(22, 28)

SUCCESS = 0
OPERAND_INVALID = 0xC000_0100_0000_0000
NO_VALID_VE_INFO = 0xC000_0704_0000_0000
ALREADY_ACCEPTED = 0x0000_0B0A_0000_0000
SIZE_MISMATCH = 0xC000_0B0B_0000_0000
FIELD_ID_INCORRECT = 0xC000_0C00_0000_0000
FIELD_NOT_WRITABLE = 0xC000_0C01_0000_0000
FIELD_VALUE_NOT_VALID = 0xC000_0C03_0000_0000
RAX, RCX, RDX, R8 = 0, 1, 2, 8

CPUID, HLT, IO, RDMSR, WRMSR, MMIO = 10, 12, 30, 31, 32, 48
GET_INFO, MAP_GPA, GET_QUOTE, FATAL_ERROR, EVENT_NOTIFY = range(0x10000, 0x10005)
RETRY = 1
INVALID_OPERAND = 1 << 63
ALIGN_ERROR = 1 << 63 | 2
UNSUPPORTED = 1 << 63 | 3
ALL_REGISTERS = 0xFFCC

VECTOR_DF, VECTOR_VE = 8, 20
EPT_VIOLATION = 48
SHARED = 1 << 47
SHARED_MAP = 0x100_0000_0000


def tdcall(guest: BareGuest, leaf: int, **registers: int) -> Registers:
    """Run a TDCALL that must not fault."""
    answer = guest.tdcall(leaf, **registers)
    assert not isinstance(answer, Fault), answer
    return answer


def vmcall(guest: BareGuest, function: int, **registers: int) -> Registers:
    """Run a TDG.VP.VMCALL, which must reach the host."""
    answer = tdcall(guest, VMCALL, **{"rcx": ALL_REGISTERS, "r10": 0, "r11": function, **registers})
    assert answer.rax == SUCCESS
    return answer


def map_gpa(guest: BareGuest, start: int, size: int) -> int:
    """Return the status of MapGPA."""
    return vmcall(guest, MAP_GPA, r12=start, r13=size).r10


def accept(guest: BareGuest, gpa: int, level: int = 0) -> int:
    """Return the status of TDG.MEM.PAGE.ACCEPT."""
    return tdcall(guest, PAGE_ACCEPT, rcx=gpa | level).rax


def become_td(vm: BareMachine) -> None:
    """Have the guest make its first TDCALL, and reach shared pages at their shared address."""
    tdcall(vm.guest, INFO)
    vm.reach_shared(47)
