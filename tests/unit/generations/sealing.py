# SPDX-License-Identifier: GPL-2.0-or-later
"""A sealed file and an owner that writes down what it is told."""

from dataclasses import dataclass, field

from cvmlab.generations.faults import FaultPlan
from cvmlab.generations.seal_guest import Seal, SealGuestFile, SealKernel


GUEST = Seal.GUEST


@dataclass
class Owner:
    """Callbacks that write down what they were told, and what was present then."""

    heard: list[tuple[str, object, int, int]] = field(default_factory=list)
    present: list[bool] = field(default_factory=list)
    file: SealGuestFile | None = None

    def invalidate_page_range(self, owner: object, start: int, end: int) -> None:
        self.heard.append(("invalidate", owner, start, end))
        if self.file is not None:
            self.present.append(self.file.storage.has(start))

    def fallocate(self, owner: object, start: int, end: int) -> None:
        self.heard.append(("fallocate", owner, start, end))


class Sealed:
    """A sealed file of a kernel with these quirks."""

    def __init__(self, *quirks: str, faults: FaultPlan | None = None, huge: bool = False) -> None:
        self.kernel = SealKernel(quirks=quirks, faults=faults)
        self.kernel.shmem_huge = huge
        self.fd = self.kernel.memfd_create()
        self.kernel.add_seals(self.fd, GUEST)
        self.owner = Owner()

    @property
    def file(self) -> SealGuestFile:
        inode = self.fd.inode
        assert isinstance(inode, SealGuestFile)
        return inode

    def register(self) -> Owner:
        self.owner.file = self.kernel.register_guest(self.fd, "vm", self.owner)
        return self.owner
