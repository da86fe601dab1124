# SPDX-License-Identifier: GPL-2.0-or-later
"""What the posted F_SEAL_GUEST got wrong: each defect is a switch, and off unless asked for."""

from collections.abc import Iterator

import pytest

from cvmlab.generations.faults import FaultKind, FaultPlan, PlannedFault
from cvmlab.generations.refusal import Oops
from cvmlab.generations.seal_guest import SealKernel
from tests.unit.generations.sealing import GUEST, Owner, Sealed
from tests.unit.generations.support import PG, PUNCH, refused


@pytest.fixture
def sealed() -> Iterator[Sealed]:
    made = Sealed()
    yield made
    made.fd.close()


def test_aq1_as_posted_a_lock_is_dropped_that_was_not_taken() -> None:
    for quirks, warnings in ((), 0), (("unlock-not-locked",), 1):
        kernel = SealKernel(quirks=quirks)
        fd = kernel.memfd_create(0)
        with refused("EPERM", "A04"):
            kernel.add_seals(fd, GUEST)
        assert len(kernel.world.trace.steps("warn")) == warnings
        fd.close()


def test_aq2_as_posted_a_second_owner_is_let_in() -> None:
    made = Sealed("owner-not-stored")
    made.register()
    second = Owner()
    made.kernel.register_guest(made.fd, "other vm", second)
    made.fd.fallocate(0, 0, PG)
    assert second.heard == [("fallocate", None, 0, 1)]
    made.fd.close()


def test_aq3_as_posted_any_fallocate_crashes_without_an_owner(sealed: Sealed) -> None:
    sealed.fd.fallocate(0, 0, PG)
    made = Sealed("unregistered-callback")
    with pytest.raises(Oops, match="before anyone registered"):
        made.fd.fallocate(0, 0, PG)
    made.fd.close()


def test_aq4_as_posted_an_errno_is_a_frame_number() -> None:
    for quirks in (), ("errno-as-pfn",):
        made = Sealed(*quirks, faults=FaultPlan([PlannedFault(FaultKind.NO_MEMORY)]))
        if quirks:
            assert made.file.get_lock_pfn(0)[0] == (1 << 64) - 12
        else:
            with refused("ENOMEM"):
                made.file.get_lock_pfn(0)
        made.fd.close()


def test_aq5_as_posted_the_two_callbacks_count_differently() -> None:
    made = Sealed("inclusive-invalidate")
    owner = made.register()
    made.fd.fallocate(0, 0, PG)
    made.fd.fallocate(PUNCH, 0, PG)
    assert owner.heard == [("fallocate", "vm", 0, 1), ("invalidate", "vm", 0, 0)]
    made.fd.close()


def test_aq6_as_posted_callbacks_outlive_their_vm(sealed: Sealed) -> None:
    sealed.register()
    with refused("EPERM", "A23"):
        sealed.file.unregister_guest("other vm")
    sealed.file.unregister_guest("vm")
    sealed.register()
    sealed.file.owner_died()
    sealed.fd.fallocate(0, 0, PG)
    posted = Sealed("no-unregister")
    posted.register()
    with refused("ENOSYS", "AQ6"):
        posted.file.unregister_guest("vm")
    posted.file.owner_died()
    with pytest.raises(Oops, match="after its VM ended"):
        posted.fd.fallocate(0, 0, PG)
    posted.fd.close()
