# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine around the generations: choosing one, its rules as data, faults, the journal, pins."""

import os
from contextlib import suppress

import pytest

from cvmlab.base.errors import ConfigError, InvariantError
from cvmlab.generations.conversion import ConvertRequest, convert
from cvmlab.generations.engine import emulate
from cvmlab.generations.faults import FaultKind, FaultPlan, PlannedFault
from cvmlab.generations.files.guest_memfd import GuestMemfd
from cvmlab.generations.files.inode import Inode
from cvmlab.generations.files.open_file import Fd, OpenFile
from cvmlab.generations.files.pins import Hold, PinLedger
from cvmlab.generations.files.storage import Storage
from cvmlab.generations.refusal import Refusal, errno_value
from cvmlab.generations.rulebook import Generation, Rulebook
from cvmlab.generations.syscalls import PAGE
from cvmlab.generations.trace import Trace
from cvmlab.generations.vms.exits import VmType
from cvmlab.generations.vms.kvm import Kvm
from tests.unit.generations.conftest import ENTRIES


BOOKS = [
    (generation, version) for generation in Generation for version in Rulebook(generation).versions
]


@pytest.mark.parametrize("generation", Generation)
def test_every_generation_can_be_chosen(generation: Generation) -> None:
    assert emulate(generation=generation.value).world.rules.generation is generation


@pytest.mark.parametrize(
    ("generation", "version", "quirks", "message"),
    [
        ("G", None, [], "there is no generation 'G' of restricted memory"),
        ("C", "v9", [], "generation C has no version 'v9'"),
        ("A", None, ["owner"], "generation A has no quirk 'owner'"),
    ],
)
def test_what_does_not_exist_cannot_be_chosen(
    generation: str, version: str | None, quirks: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        emulate(generation=generation, version=version, quirks=quirks)
    assert caught.value.message == message
    assert caught.value.hint


@pytest.mark.parametrize(("generation", "version"), BOOKS)
def test_every_rule_cites_an_entry_and_says_something(generation: Generation, version: str) -> None:
    for rule in Rulebook(generation, version).rules:
        assert rule.entry.lower() in ENTRIES, rule
        assert rule.says
        assert errno_value(rule.errno) > 0


def test_versions_and_quirks_that_rules_name_exist() -> None:
    versions = {version for _, version in BOOKS}
    for generation in Generation:
        book = Rulebook(generation)
        loose = Rulebook(generation, quirks=book.known_quirks)
        for rule in (*book.rules, *loose.rules):
            assert rule.versions <= versions
            assert {rule.quirk, rule.unless} <= {None, *book.known_quirks}


def test_each_quirk_of_the_engine_is_a_switch_of_some_generation() -> None:
    with pytest.raises(InvariantError, match="has no quirk"):
        Rulebook(Generation.SEAL_GUEST).has("inclusive-end")


def test_a_refusal_names_rule_and_entry() -> None:
    with pytest.raises(Refusal) as caught:
        Kvm().create_vm().create_guest_memfd(1)
    assert caught.value.args[1] == (
        "create: the size is not a multiple of the page size, size 0x1 flags 0x0 "
        "(rule size-unaligned, D01)"
    )
    assert (caught.value.errno, caught.value.rule) == (22, "size-unaligned")


def test_a_planned_fault_happens_the_nth_time_and_once() -> None:
    plan = FaultPlan([PlannedFault(FaultKind.NO_MEMORY, nth=2, reason="second")])
    seen = [plan.take(FaultKind.NO_MEMORY, 1) for _ in range(4)]
    assert [fault.reason if fault else None for fault in seen] == [None, "second", None, None]
    plan.add(PlannedFault(FaultKind.NO_MEMORY))
    assert plan.take(FaultKind.PINNED, 1) is None
    assert plan.take(FaultKind.NO_MEMORY, 1) is not None


def test_a_seed_gives_the_same_faults_again() -> None:
    def run(seed: int) -> list[tuple[int, int] | None]:
        plan = FaultPlan(seed=seed, rates={FaultKind.CONVERT_AGAIN: 0.3})
        taken = [plan.take(FaultKind.CONVERT_AGAIN, 64) for _ in range(50)]
        return [(fault.nth, fault.page) if fault else None for fault in taken]

    assert run(7) == run(7)
    assert run(7) != run(8)
    assert 5 < sum(item is not None for item in run(7)) < 25


def test_other_kinds_do_not_disturb_a_seeds_faults() -> None:
    plan = FaultPlan(seed=1, rates={FaultKind.NO_MEMORY: 0.5})
    other = FaultPlan(seed=1, rates={FaultKind.NO_MEMORY: 0.5})
    for _ in range(20):
        plan.take(FaultKind.PINNED, 3)
        assert (plan.take(FaultKind.NO_MEMORY, 8) is None) == (
            other.take(FaultKind.NO_MEMORY, 8) is None
        )


def history(seed: int) -> list[tuple[str, str]]:
    """Convert back and forth under a seed; return what the journal says of it."""
    rates = {FaultKind.PINNED: 0.3, FaultKind.NO_MEMORY: 0.1, FaultKind.PARTIAL: 0.2}
    kvm = Kvm(Generation.MAPPABLE_GUEST_MEMFD, faults=FaultPlan(seed=seed, rates=rates))
    fd = kvm.create_vm(VmType.SW_PROTECTED).create_guest_memfd(16 * PAGE, 1)
    inode = fd.inode
    assert isinstance(inode, GuestMemfd)
    for number in range(60):
        offset, attributes = number % 8 * PAGE, 8 * (number // 8 % 2)
        with suppress(Refusal):
            fd.fallocate(1, offset, 4 * PAGE)
        with suppress(Refusal):
            convert(inode, ConvertRequest(offset, 8 * PAGE, attributes))
    fd.close()
    return [(entry.step, entry.reason) for entry in kvm.world.trace]


def test_a_seed_gives_the_same_history_with_a_reason_for_each_fault() -> None:
    assert history(11) == history(11)
    assert history(11) != history(12)
    reasons = {reason for step, reason in history(11) if step == "fault"}
    assert reasons == {"injected by seed 11"}


def test_a_page_somebody_holds_just_now_refuses_once() -> None:
    kvm = Kvm(
        Generation.MAPPABLE_GUEST_MEMFD, faults=FaultPlan([PlannedFault(FaultKind.PINNED, page=2)])
    )
    fd = kvm.create_vm(VmType.SW_PROTECTED).create_guest_memfd(8 * PAGE, 3)
    inode = fd.inode
    assert isinstance(inode, GuestMemfd)
    with pytest.raises(Refusal) as caught:
        convert(inode, ConvertRequest(PAGE, 4 * PAGE, 8))
    assert (caught.value.errno, caught.value.error_offset) == (11, 3 * PAGE)
    convert(inode, ConvertRequest(PAGE, 4 * PAGE, 8))
    fd.close()


def test_the_journal_says_what_it_dropped() -> None:
    journal = Trace(capacity=3)
    for number in range(5):
        journal.note("step", number)
    assert [entry.start for entry in journal] == [2, 3, 4]
    assert (journal.dropped, len(journal)) == (2, 5)
    assert journal.steps("other") == []


def test_the_ledger_finds_the_lowest_held_page() -> None:
    ledger = PinLedger()
    ledger.pin(10, 20, "late")
    early = ledger.pin(4, 6, "early", Hold.LONG_TERM)
    assert ledger.first(0, 4) is None
    assert ledger.first(0, 100) is early
    assert ledger.first(5, 100) is early
    assert [ledger.count(index) for index in (3, 4, 5, 6, 10)] == [0, 1, 1, 0, 1]
    ledger.unpin(early)
    assert len(list(ledger)) == 1


def test_storage_learns_of_pages_that_others_touched() -> None:
    storage = Storage.memfd("shared with a QEMU", 64 * PAGE)
    os.pwrite(storage.fileno(), b"x", 5 * PAGE)
    os.pwrite(storage.fileno(), b"x", 63 * PAGE)
    assert not storage.has(5)
    storage.notice()
    assert [tuple(run)[:2] for run in storage.present(0, 64)] == [(5, 6), (63, 64)]
    assert storage.usage.host_bytes == storage.usage.known_bytes == 2 * PAGE
    storage.close()


def test_storage_of_a_terabyte_costs_what_is_touched() -> None:
    storage = Storage.memfd("sparse", 1 << 40)
    storage.allocate(1 << 27, (1 << 27) + 2)
    assert storage.usage.host_bytes == 2 * PAGE
    assert [tuple(run) for run in storage.present(0, 1 << 28)] == [(1 << 27, (1 << 27) + 2, 1)]
    storage.close()


def test_dropping_a_file_more_often_than_held_is_a_defect() -> None:
    file = OpenFile(Inode(Kvm().world, Storage.memfd("plain")))
    Fd(file).close()
    with pytest.raises(InvariantError):
        file.drop()
