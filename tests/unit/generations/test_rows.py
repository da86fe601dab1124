# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the rules that the three memfd generations have in common: bad ranges, modes, no memory."""

from collections.abc import Callable, Iterator

import pytest

from cvmlab.generations.conversion import ConvertRequest, convert
from cvmlab.generations.engine import emulate
from cvmlab.generations.faults import FaultKind, FaultPlan, PlannedFault
from cvmlab.generations.files.guest_memfd import GuestMemfd
from cvmlab.generations.files.open_file import Fd
from cvmlab.generations.inaccessible import InaccessibleKernel
from cvmlab.generations.restrictedmem import RestrictedKernel
from cvmlab.generations.seal_guest import Seal, SealGuestFile, SealKernel, Vma
from cvmlab.generations.vms.exits import VmType
from cvmlab.generations.vms.kvm import Kvm
from tests.unit.generations.support import KEEP, PG, PUNCH, refused


def sealed(plan: FaultPlan) -> Fd:
    kernel = emulate(generation="A", faults=plan)
    assert isinstance(kernel, SealKernel)
    fd = kernel.memfd_create()
    kernel.add_seals(fd, Seal.GUEST)
    return fd


def inaccessible(plan: FaultPlan) -> Fd:
    kernel = emulate(generation="B", faults=plan)
    assert isinstance(kernel, InaccessibleKernel)
    return kernel.memfd_create()


def restricted(plan: FaultPlan) -> Fd:
    kernel = emulate(generation="C", version="v10", faults=plan)
    assert isinstance(kernel, RestrictedKernel)
    return kernel.memfd_restricted()


MAKERS = {"A": sealed, "B": inaccessible, "C": restricted}
RANGE_ROWS = {"A": "A18", "B": "B07", "C": "C05"}
MEMORY_ROWS = {"A": "A26", "B": "B09", "C": "C25"}


@pytest.fixture
def plan() -> FaultPlan:
    return FaultPlan()


@pytest.fixture(params=MAKERS)
def made(request: pytest.FixtureRequest, plan: FaultPlan) -> Iterator[tuple[str, Fd]]:
    fd = MAKERS[request.param](plan)
    yield request.param, fd
    fd.close()


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (-PG, PG), (0, -PG)])
@pytest.mark.parametrize("mode", [0, PUNCH])
def test_a_range_that_is_none_is_einval(
    made: tuple[str, Fd], mode: int, offset: int, length: int
) -> None:
    with refused("EINVAL", RANGE_ROWS[made[0]]):
        made[1].fallocate(mode, offset, length)


@pytest.mark.parametrize("mode", [2, 0x08, 0x10, 0x20])
def test_a_mode_nobody_has_is_eopnotsupp(made: tuple[str, Fd], mode: int) -> None:
    with refused("EOPNOTSUPP", RANGE_ROWS[made[0]]):
        made[1].fallocate(mode, 0, PG)


def test_no_memory_keeps_nothing(made: tuple[str, Fd], plan: FaultPlan) -> None:
    plan.add(PlannedFault(FaultKind.NO_MEMORY))
    with refused("ENOMEM", MEMORY_ROWS[made[0]]):
        made[1].fallocate(0, 0, 4 * PG)
    assert made[1].inode.storage.usage.host_bytes == 0
    assert made[1].stat().size == 0


def test_a_signal_keeps_what_was_done(made: tuple[str, Fd], plan: FaultPlan) -> None:
    plan.add(PlannedFault(FaultKind.PARTIAL, page=3))
    with refused("EINTR", MEMORY_ROWS[made[0]]):
        made[1].fallocate(KEEP, 0, 8 * PG)
    assert made[1].inode.storage.usage.host_bytes == 3 * PG


class Reentrant:
    """An owner whose callback does something to the file that is just being punched."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def invalidate_page_range(self, owner: object, start: int, end: int) -> None:
        self._action()

    def fallocate(self, owner: object, start: int, end: int) -> None:
        """Allocations do not matter here."""


def test_a28_the_page_is_locked_while_its_owner_is_told() -> None:
    kernel = SealKernel()
    fd = kernel.memfd_create()
    kernel.add_seals(fd, Seal.GUEST)

    def punch_again() -> None:
        with refused("EDEADLK", "A28"):
            fd.fallocate(PUNCH, 0, PG)
        with refused("EDEADLK", "A28"):
            fd.truncate(0)

    kernel.register_guest(fd, "vm", Reentrant(punch_again))
    fd.fallocate(0, 0, PG)
    fd.fallocate(PUNCH, 0, PG)
    assert fd.inode.storage.usage.host_bytes == 0
    fd.close()


@pytest.mark.parametrize("seal", [Seal.WRITE, Seal.FUTURE_WRITE], ids=["A09-write", "A09-future"])
def test_without_the_guest_seal_the_others_act_as_ever(seal: Seal) -> None:
    kernel = SealKernel()
    fd = kernel.memfd_create()
    assert fd.write(0, b"12") == 2
    assert fd.read(0, 4) == b"12"
    kernel.add_seals(fd, Seal.GROW)
    with refused("EPERM", "A09"):
        fd.write(1, b"34")
    kernel.add_seals(fd, seal)
    with refused("EPERM", "A09"):
        fd.write(0, b"3")
    with refused("EINVAL", "A13"):
        fd.truncate(-1)
    fd.close()


def test_a12_other_seals_refuse_writable_mappings_only() -> None:
    kernel = SealKernel()
    fd = kernel.memfd_create()
    kernel.add_seals(fd, Seal.FUTURE_WRITE)
    file = fd.inode
    assert isinstance(file, SealGuestFile)
    with refused("EPERM", "A12", rule="write-sealed"):
        file.map(Vma(writable=True, shared=True))
    file.map(Vma(writable=False, shared=True))
    fd.close()


def test_f20_files_that_only_follow_their_vm_have_no_conversion_of_their_own() -> None:
    fd = Kvm().create_vm(VmType.SW_PROTECTED).create_guest_memfd(PG)
    file = fd.inode
    assert isinstance(file, GuestMemfd)
    with refused("ENOTTY", "F20"):
        convert(file, ConvertRequest(0, PG, 8))
    fd.close()


def test_a02_unknown_creation_flags_are_refused() -> None:
    with refused("EINVAL", "A02"):
        SealKernel().memfd_create(0x20)
