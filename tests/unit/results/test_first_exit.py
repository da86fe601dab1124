# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a kernel that does not speak its profile's interface would have died."""

import pytest

from cvmlab.memory.records import FLAG_EXIT_SHIFT, GuestExit, Kind
from cvmlab.results.callers import NO_CALLERS, Callers, NamedChain
from cvmlab.results.first_exit import first_exit
from tests.fakes import journals as make


pytestmark = pytest.mark.fault("F3")

MSR = GuestExit.REGISTER << FLAG_EXIT_SHIFT
RIP = 0xFFFFFFFF81000100
DIED = make.row(Kind.EXIT, 1_000_000, gpa=0x8B, flags=MSR, rip=RIP, vcpu=0, pages=0, stack=7)


def test_it_is_named_with_who_called() -> None:
    chains = {7: NamedChain(("native_read_msr+0x4", "load_ucode+0x20", "start_kernel+0x1"))}
    records = make.journal(make.accepted(0, 3, 1), DIED)
    named = first_exit(records, {RIP: "native_read_msr+0x4"}.get, NO_CALLERS)
    assert named == "RDMSR 0x8b in native_read_msr"
    called = first_exit(records, lambda _: None, Callers(chains, ("native_read_msr",)))
    assert called == "RDMSR 0x8b in load_ucode, called by start_kernel"


def test_without_symbols_it_has_an_address() -> None:
    assert first_exit(make.journal(DIED), lambda _: None, NO_CALLERS) == f"RDMSR 0x8b at {RIP:#x}"


def test_a_journal_may_have_none() -> None:
    assert first_exit(make.journal(make.accepted(0, 3, 1)), lambda _: None, NO_CALLERS) is None
