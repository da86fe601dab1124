# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel with pools of huge pages, in each of the three posted shapes."""

from typing import TYPE_CHECKING

from cvmlab.generations.faults import FaultPlan
from cvmlab.generations.files.huge_pages import HugePool, PoolStats
from cvmlab.generations.files.open_file import Fd
from cvmlab.generations.hugetlb import HugeGuestMemfd, HugeKvm
from cvmlab.generations.vms.exits import VmType
from tests.unit.generations.support import G1, M2


if TYPE_CHECKING:
    from cvmlab.generations.vms.kvm import EmulatedVm


VERSIONS = ("R1v1", "R1v2", "HUGE26")
ORDERS = {9: M2, 18: G1}
POOL = 8
BASELINE = PoolStats(nr=POOL, free=POOL, resv=0, surplus=0, overcommit=0)


def flags_of(version: str, order: int, more: int = 0) -> int:
    """The creation flags that ask for huge pages of an order."""
    code = order + 12
    match version:
        case "R1v1":
            return 2 | code << 26
        case "R1v2":
            return 1 | 4 | code << 58 | more
        case _:
            return 1 | 4 | more


class Huge:
    """A kernel with eight huge pages of each order, and a VM."""

    def __init__(self, version: str, faults: FaultPlan | None = None, nodes: int = 1) -> None:
        self.version = version
        self.pools = {order: HugePool(order, POOL) for order in ORDERS}
        self.kvm = HugeKvm(version=version, pools=self.pools.values(), faults=faults, nodes=nodes)
        self.vm: EmulatedVm = self.kvm.create_vm(VmType.SW_PROTECTED)

    def create(self, size: int, order: int = 9, more: int = 0) -> Fd:
        page_order = order if self.version == "HUGE26" else 0
        return self.vm.create_guest_memfd(size, flags_of(self.version, order, more), page_order)

    def stats(self, order: int = 9) -> tuple[int, int]:
        """Free and reserved pages; the other numbers never move."""
        found = self.pools[order].stats
        assert (found.nr, found.surplus, found.overcommit) == (POOL, 0, 0)
        return found.free, found.resv


def inode_of(fd: Fd) -> HugeGuestMemfd:
    inode = fd.inode
    assert isinstance(inode, HugeGuestMemfd)
    return inode
