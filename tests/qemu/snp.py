# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface of SEV-ES and SEV-SNP as tests write it: MSR protocol, GHCB page, instructions.

Numbers are those of "SEV-ES Guest-Hypervisor Communication Block Standardization" (AMD 56421, v2.03)
and of the AMD64 Architecture Programmer's Manual, written here by hand: never take them from the
plugin, which they check.
"""

import asyncio
import struct
from dataclasses import dataclass
from typing import Any

from cvmlab.memory.ranges import PAGE_SIZE
from tests.qemu.bare import BareGuest, Fault
from tests.qemu.bare_machine import BareMachine, page


SHARED_MAP = 0x100_0000_0000
VECTOR_UD, VECTOR_GP, VECTOR_PF, VECTOR_VC = 6, 13, 14, 29
NOT_VALIDATED = 0x404
SEV_STATUS, STATUS_SNP = 0xC001_0131, 1 << 2
SIZE_4K, SIZE_2M = 0, 1
STOP_TIMEOUT_S = 20

# Results of PVALIDATE, RMPADJUST and RMPQUERY, in EAX.
SUCCESS, FAIL_INPUT, FAIL_PERMISSION, FAIL_SIZEMISMATCH = 0, 1, 2, 6
VMSA_BIT = 1 << 16

# The GHCB MSR's protocol: request, and response one higher unless said otherwise.
INFO_RESPONSE, INFO_REQUEST = 0x001, 0x002
CPUID_REQUEST, AP_RESET_HOLD, PREFERRED_GPA, REGISTER_GPA = 0x004, 0x006, 0x010, 0x012
PSC_REQUEST, RUN_VMPL, FEATURES_REQUEST, TERMINATE = 0x014, 0x016, 0x080, 0x100
TO_PRIVATE, TO_SHARED = 1, 2
FEATURE_SNP, FEATURE_AP_CREATION = 1 << 0, 1 << 1

# Exit codes of the GHCB page; those below 0x80000000 are SVM's.
READ_DR7, WRITE_DR7, RDTSC, RDPMC, CPUID, INVD = 0x27, 0x37, 0x6E, 0x6F, 0x72, 0x76
IOIO, MSR, VMMCALL, RDTSCP, WBINVD, MONITOR, MWAIT = 0x7B, 0x7C, 0x81, 0x87, 0x89, 0x8A, 0x8B
MMIO_READ, MMIO_WRITE, NMI_COMPLETE, AP_HLT_LOOP, AP_JUMP_TABLE = range(0x80000001, 0x80000006)
PSC, GUEST_REQUEST, EXT_GUEST_REQUEST, AP_CREATION, HV_DOORBELL = range(0x80000010, 0x80000015)
HV_IPI, HV_TIMER, APIC_IDS, SNP_RUN_VMPL = range(0x80000015, 0x80000019)
HV_FEATURES, TERMINATION, UNSUPPORTED = range(0x8000FFFD, 0x80010000)

# What SW_EXITINFO1 says of an exit, and SW_EXITINFO2 of malformed input.
RAISE_EXCEPTION, MALFORMED = 1, 2
NOT_REGISTERED, INVALID_USAGE, INVALID_SCRATCH, MISSING_INPUT, INVALID_INPUT, INVALID_EVENT = (
    range(1, 7)
)  # fmt: skip

IOIO_OUT, IOIO_IN, IOIO_8, IOIO_16, IOIO_32 = 0, 1, 1 << 4, 1 << 5, 1 << 6

FIELDS = {
    "dr7": 0x160, "rax": 0x1F8, "rcx": 0x308, "rdx": 0x310, "rbx": 0x318, "rsi": 0x330,
    "rdi": 0x338, "exit_code": 0x390, "info1": 0x398, "info2": 0x3A0, "scratch": 0x3A8,
    "xcr0": 0x3E8,
}  # fmt: skip
CPL = 0xCB
VALID_BITMAP, BUFFER, VERSION_AND_USAGE = 0x3F0, 0x800, 0xFF8


def msr(guest: BareGuest, request: int) -> int:
    """Return what the host answers to a request of the MSR protocol."""
    return guest.value("vmgexit", request)


async def wait_stop(vm: BareMachine, name: str, *arguments: int) -> None:
    """Run a command that must stop the VM."""
    with vm.qmp.events() as stream:
        vm.guest.start(name, *arguments)
        async with asyncio.timeout(STOP_TIMEOUT_S):
            while (await anext(stream)).name != "STOP":
                pass


def psc_request(gpa: int, operation: int) -> int:
    """Return the request that changes the state of one page."""
    return operation << 52 | gpa | PSC_REQUEST


def to_shared(guest: BareGuest, gpa: int) -> None:
    """Share a page as a guest does: no longer validated, then converted; map it with C=0.

    Without SNP nobody is asked: what is mapped so is shared.
    """
    guest.done("map-shared", 0)
    if not guest.value("rdmsr", SEV_STATUS) & STATUS_SNP:
        guest.done("write", SHARED_MAP + gpa, 0)
        return
    pvalidate(guest, gpa, valid=False)
    assert msr(guest, psc_request(gpa, TO_SHARED)) == PSC_REQUEST + 1


def to_private(guest: BareGuest, gpa: int) -> None:
    """Make a page private, which leaves it to be validated."""
    assert msr(guest, psc_request(gpa, TO_PRIVATE)) == PSC_REQUEST + 1


def pvalidate(
    guest: BareGuest, gpa: int, size: int = SIZE_4K, *, valid: bool = True
) -> tuple[int, bool]:
    """Return result and carry flag of PVALIDATE, which must not fault."""
    rax, _, _, carry = three(guest, "pvalidate", gpa, size, int(valid))
    return rax, bool(carry)


def three(guest: BareGuest, name: str, rax: int, rcx: int, rdx: int) -> tuple[int, ...]:
    """Run PVALIDATE, RMPADJUST or RMPQUERY, which must not fault; return RAX, RCX, RDX, carry."""
    answer = guest.run(name, rax, rcx, rdx)
    assert not isinstance(answer, Fault), answer
    return answer


@dataclass(frozen=True, slots=True)
class Answer:
    """What the host left in the page."""

    info1: int
    info2: int
    ghcb: "Ghcb"

    def __getattr__(self, name: str) -> int:
        return self.ghcb.read(FIELDS[name])

    @property
    def status(self) -> tuple[int, int]:
        return self.info1 & 0xFFFFFFFF, self.info2


class Ghcb:
    """A GHCB page, shared, and under SNP registered with the host."""

    def __init__(self, guest: BareGuest, gpa: int = page(64), *, register: bool = True) -> None:
        self.guest, self.gpa = guest, gpa
        to_shared(guest, gpa)
        if register and guest.value("rdmsr", SEV_STATUS) & STATUS_SNP:
            assert msr(guest, gpa | REGISTER_GPA) == gpa | REGISTER_GPA + 1

    def read(self, offset: int) -> int:
        """Return a field of 64 bits."""
        return self.guest.value("read", SHARED_MAP + self.gpa + offset)

    def write(self, offset: int, value: int) -> None:
        """Set a field of 64 bits."""
        self.guest.done("write", SHARED_MAP + self.gpa + offset, value)

    def fill(self, data: bytes, offset: int = BUFFER) -> int:
        """Put *data* into the page; return its GPA."""
        self.guest.write_bytes(SHARED_MAP + self.gpa + offset, data + bytes(-len(data) % 8))
        return self.gpa + offset

    def exit(self, code: int, info1: int = 0, info2: int = 0, **options: Any) -> Answer:
        """Prepare the page, exit, return the answer."""
        self.prepare(code, info1, info2, **options)
        assert msr(self.guest, self.gpa) == self.gpa
        return Answer(self.read(FIELDS["info1"]), self.read(FIELDS["info2"]), self)

    def prepare(
        self, code: int, info1: int = 0, info2: int = 0, *,
        usage: int = 0, version: int = 2, missing: tuple[str, ...] = (), **fields: int,
    ) -> None:  # fmt: skip
        """Fill the page for an exit; fields in *missing* are not marked as valid."""
        values = {**fields, "exit_code": code, "info1": info1, "info2": info2}
        bitmap = sum(1 << FIELDS[name] // 8 for name in values if name not in missing)
        for name, value in values.items():
            self.write(FIELDS[name], value)
        self.write(VALID_BITMAP, bitmap & 2**64 - 1)
        self.write(VALID_BITMAP + 8, bitmap >> 64)
        self.write(VERSION_AND_USAGE, version << 16 | usage << 32)

    def change_state(self, *entries: int, cur: int = 0, end: int | None = None) -> Answer:
        """Run a page state change with these entries."""
        last = len(entries) - 1 if end is None else end
        data = struct.pack(f"<HHI{len(entries)}Q", cur, last, 0, *entries)
        return self.exit(PSC, scratch=self.fill(data))

    def cursor(self) -> tuple[int, int]:
        """Return cur_entry and end_entry of the last page state change."""
        word = self.read(BUFFER)
        return word & 0xFFFF, word >> 16 & 0xFFFF

    def entry(self, index: int) -> int:
        """Return an entry of the last page state change."""
        return self.read(BUFFER + 8 + 8 * index)


def psc_entry(gpa: int, operation: int, *, large: bool = False, done: int = 0) -> int:
    """Return an entry of a page state change; *done* pages of it have been converted before."""
    return int(large) << 56 | operation << 52 | gpa | done


SNP: dict[str, Any] = {"coco": "sev-snp"}
assert PAGE_SIZE == 4096
