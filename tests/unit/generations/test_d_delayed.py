# SPDX-License-Identifier: GPL-2.0-or-later
"""Delayed binding: a file that outlives its VM and moves to another, step by step (U0-U12)."""

from collections.abc import Iterator

import pytest

from cvmlab.generations.files.guest_memfd import GuestMemfd
from cvmlab.generations.files.open_file import Fd
from cvmlab.generations.vms.exits import ExitReason, VcpuExit, VmType
from cvmlab.generations.vms.kvm import EmulatedVm, Kvm
from cvmlab.generations.vms.slot_handover import migrate
from cvmlab.generations.vms.slots import Region
from tests.unit.generations.support import PG, PUNCH, refused


GMEM = 4
SLOTS = (Region(0, 0, 4 * PG, GMEM), Region(1, 0x10000, 4 * PG, GMEM, offset=4 * PG))
EIO = VcpuExit(5, ExitReason.NONE)


class Handover:
    """A file of eight pages, a source VM and a destination VM of one kernel."""

    def __init__(self, version: str = "delayed", quirks: tuple[str, ...] = ()) -> None:
        self.kvm = Kvm(version=version, quirks=quirks)
        self.source = self._vm()
        self.destination = self._vm()
        self.fd = self.kvm.create_guest_memfd(8 * PG)
        inode = self.fd.inode
        assert isinstance(inode, GuestMemfd)
        self.inode = inode

    def _vm(self) -> EmulatedVm:
        vm = self.kvm.create_vm(VmType.SW_PROTECTED)
        vm.set_attributes(0, 0x20000, 8)
        return vm

    @property
    def files(self) -> int:
        return self.kvm.world.files

    def prepare(self, vm: EmulatedVm, regions: tuple[Region, ...] = SLOTS) -> None:
        for region in regions:
            vm.set_region(region, self.fd)

    def start(self) -> None:
        """Let the source run on both slots and leave a value in each."""
        self.prepare(self.source)
        assert self.source.write(0, b"\x77") is None
        assert self.source.write(0x10000, b"\x88") is None

    def close(self) -> None:
        self.source.close()
        self.destination.close()
        self.fd.close()


@pytest.fixture
def world() -> Iterator[Handover]:
    made = Handover()
    yield made
    made.close()


def test_u0_a_file_needs_no_vm(world: Handover) -> None:
    assert world.inode.owner is None
    assert not len(world.inode.bindings)


@pytest.mark.parametrize(
    ("region", "fd"),
    [
        pytest.param(Region(0, 0, PG, GMEM, offset=(1 << 63)), None, id="U1-negative offset"),
        pytest.param(Region(0, 0, PG, GMEM), -1, id="U1-bad fd"),
        pytest.param(Region(0, 0, PG, GMEM), 0, id="U1-not a guest_memfd"),
        pytest.param(Region(0, 0, PG, GMEM, offset=8 * PG), None, id="U1-beyond the size"),
    ],
)
def test_preparing_a_slot_refuses_with_einval(
    world: Handover, region: Region, fd: int | None
) -> None:
    with refused("EINVAL"):
        world.source.set_region(region, world.fd if fd is None else fd)
    assert not world.source.slots


def test_u1_preparing_a_slot_binds_nothing_and_holds_the_file(world: Handover) -> None:
    world.prepare(world.source)
    assert world.inode.owner is None
    assert not len(world.inode.bindings)
    world.fd.close()
    assert world.files == 1


def test_u2_the_first_touch_binds(world: Handover) -> None:
    world.prepare(world.source)
    assert world.source.read(PG, 1) == b"\0"
    assert world.inode.owner is world.source
    assert [(item.start, item.end) for item in world.inode.bindings] == [(0, 4)]
    assert world.source.read(0, 1) == b"\0"
    assert len(world.inode.bindings) == 1


def test_u2_another_slot_or_another_vm_is_eio(world: Handover) -> None:
    world.start()
    world.source.set_region(Region(2, 0x18000, 4 * PG, GMEM, offset=2 * PG), world.fd)
    assert world.source.read(0x18000) == EIO
    world.prepare(world.destination)
    assert world.destination.read(0) == EIO


def test_u2_the_quirk_looks_at_the_first_index_only() -> None:
    world = Handover(quirks=("bind-checks-first-index",))
    world.prepare(world.source, (Region(1, 0, 2 * PG, GMEM, offset=2 * PG),))
    world.source.read(0)
    world.source.set_region(Region(2, 0x18000, 4 * PG, GMEM), world.fd)
    assert world.source.read(0x18000, 1) == b"\0"
    assert len(world.inode.bindings.overlapping(2, 4)) == 2
    world.close()


def test_u3_closing_the_descriptor_frees_nothing(world: Handover) -> None:
    world.start()
    world.fd.close()
    assert world.source.read(0, 1) == b"\x77"
    assert world.inode.storage.usage.host_bytes == 2 * PG


def test_u4_u5_the_destination_prepares_the_same_slots_on_the_passed_file(world: Handover) -> None:
    world.start()
    passed = world.fd.dup()
    assert passed.inode is world.inode
    for region in SLOTS:
        world.destination.set_region(region, passed)
    passed.close()
    assert len(world.destination.slots) == 2


def test_u5_without_delayed_binding_the_destination_is_refused() -> None:
    kvm = Kvm()
    source, destination = kvm.create_vm(), kvm.create_vm()
    fd = source.create_guest_memfd(4 * PG)
    source.set_region(SLOTS[0], fd)
    with refused("EINVAL", "D39"):
        destination.set_region(SLOTS[0], fd)
    source.close()
    fd.close()


def test_u6_u7_all_bindings_move_with_their_contents(world: Handover) -> None:
    world.start()
    world.prepare(world.destination)
    migrate(world.inode, world.source, world.destination)
    assert world.inode.owner is world.destination
    assert {item.notifier for item in world.inode.bindings} == set(world.destination.slots.values())
    assert world.destination.read(0, 1) == b"\x77"
    assert world.destination.read(0x10000, 1) == b"\x88"
    assert world.source.read(0, 1) == EIO


@pytest.mark.parametrize(
    "regions",
    [
        pytest.param((), id="U6-no slots"),
        pytest.param(SLOTS[:1], id="U6-slot missing"),
        pytest.param(
            (SLOTS[0], Region(1, 0x20000, 4 * PG, GMEM, offset=4 * PG)), id="U6-other gpa"
        ),
        pytest.param(
            (SLOTS[0], Region(1, 0x10000, 2 * PG, GMEM, offset=4 * PG)), id="U6-other size"
        ),
        pytest.param((SLOTS[0], Region(1, 0x10000, 4 * PG, GMEM, offset=0)), id="U6-other offset"),
    ],
)
def test_a_destination_that_differs_gets_nothing(
    world: Handover, regions: tuple[Region, ...]
) -> None:
    world.start()
    world.prepare(world.destination, regions)
    before = list(world.inode.bindings)
    with refused("EINVAL", "U6"):
        migrate(world.inode, world.source, world.destination)
    assert list(world.inode.bindings) == before
    assert world.source.read(0, 1) == b"\x77"
    assert world.inode.owner is world.source


def test_u6_source_and_destination_must_be_two_and_the_source_the_owner(world: Handover) -> None:
    world.start()
    world.prepare(world.destination)
    with refused("EINVAL", "U6", rule="same-vm"):
        migrate(world.inode, world.source, world.source)
    with refused("EINVAL", "U6", rule="source-differs"):
        migrate(world.inode, world.destination, world.source)


def test_u6_a_destination_that_is_bound_already_is_busy() -> None:
    world = Handover(quirks=("bind-checks-first-index",))
    world.start()
    world.prepare(world.destination)
    world.destination.bind_slot(world.destination.slots[0], world.inode)
    with refused("EINVAL", "U6", rule="destination-busy"):
        migrate(world.inode, world.source, world.destination)
    world.close()


def test_u7_touching_before_the_migration_is_eio(world: Handover) -> None:
    world.start()
    world.prepare(world.destination)
    assert world.destination.read(0) == EIO
    migrate(world.inode, world.source, world.destination)
    assert world.destination.read(0, 1) == b"\x77"


def test_u2_u9_a_file_of_another_vm_is_refused_even_where_nothing_is_bound(
    world: Handover,
) -> None:
    world.prepare(world.source, SLOTS[:1])
    world.source.read(0)
    world.prepare(world.destination, SLOTS[1:])
    assert world.destination.read(0x10000) == EIO


def test_u8_the_source_leaves_the_destinations_bindings_alone(world: Handover) -> None:
    world.start()
    world.prepare(world.destination)
    migrate(world.inode, world.source, world.destination)
    world.source.close()
    assert len(world.inode.bindings) == 2
    assert world.destination.read(0x10000, 1) == b"\x88"


def test_u9_after_the_last_slot_another_vm_may_bind(world: Handover) -> None:
    world.start()
    world.prepare(world.destination)
    world.source.close()
    assert world.inode.owner is None
    assert world.destination.read(0, 1) == b"\x77"
    assert world.inode.owner is world.destination


def test_u10_punching_a_file_of_nobody_invalidates_nobody(world: Handover) -> None:
    world.prepare(world.source)
    world.inode.storage.write(0, b"old")
    world.fd.fallocate(PUNCH, 0, PG)
    assert world.source.invalidations == 0
    assert not world.inode.storage.has(0)
    assert world.source.read(0, 3) == bytes(3)


def test_u11_the_last_reference_frees_the_pages(world: Handover) -> None:
    world.start()
    world.fd.close()
    world.source.set_region(Region(0, 0, 0))
    assert world.files == 1
    world.source.set_region(Region(1, 0, 0))
    assert world.inode.evicted
    assert not len(world.inode.bindings)
    assert world.inode.storage.usage.host_bytes == 0


def linked_world() -> tuple[Kvm, EmulatedVm, EmulatedVm, Fd]:
    kvm = Kvm()
    source = kvm.create_vm(VmType.SW_PROTECTED)
    return kvm, source, kvm.create_vm(VmType.SW_PROTECTED), source.create_guest_memfd(4 * PG)


def test_u12_a_linked_file_lets_the_other_vm_read_what_the_first_wrote() -> None:
    _, source, destination, fd = linked_world()
    for vm in (source, destination):
        vm.set_attributes(0, 4 * PG, 8)
    source.set_region(Region(0, 0, 4 * PG, GMEM), fd)
    source.write(0, bytes.fromhex("efbeadde"))
    linked = destination.link_guest_memfd(fd)
    assert linked.stat().nlink == 2
    assert linked.inode is fd.inode
    destination.set_region(Region(0, 0, 4 * PG, GMEM), linked)
    assert destination.read(0, 4) == bytes.fromhex("efbeadde")
    fd.close()
    assert destination.read(0, 4) == bytes.fromhex("efbeadde")
    destination.close()
    source.close()
    linked.close()


@pytest.mark.parametrize(
    ("flags", "which", "left", "errno"),
    [
        pytest.param(1, "fd", 1, "EINVAL", id="U12-flags"),
        pytest.param(0, -1, 1, "EINVAL", id="U12-bad fd"),
        pytest.param(0, 0, 1, "EINVAL", id="U12-not a guest_memfd"),
        pytest.param(0, "same vm", 1, "EINVAL", id="U12-same vm"),
        pytest.param(0, "fd", 0, "EMFILE", id="U12-no descriptors"),
    ],
)
def test_linking_refuses(flags: int, which: str | int, left: int, errno: str) -> None:
    _, source, destination, fd = linked_world()
    vm = source if which == "same vm" else destination
    with refused(errno, "U12", rule="bad-fd" if which == -1 else ""):
        vm.link_guest_memfd(which if isinstance(which, int) else fd, flags, descriptors_left=left)
    fd.close()
