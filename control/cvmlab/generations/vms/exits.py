# SPDX-License-Identifier: GPL-2.0-or-later
"""The exits of an emulated vCPU to its VMM."""

from dataclasses import dataclass
from enum import IntEnum, IntFlag, StrEnum


class ExitReason(IntEnum):
    """KVM's numbers; NONE means that KVM_RUN failed without saying where."""

    NONE = 0
    HYPERCALL = 3
    MMIO = 6
    MEMORY_FAULT = 39


class Path(StrEnum):
    """The part of KVM that makes a guest access: its page tables, or the instruction emulator."""

    MMU = "mmu"
    EMULATOR = "emulator"


class VmType(StrEnum):
    """The kinds of VM that treat private memory differently."""

    DEFAULT = "default"  # no private memory
    SW_PROTECTED = "sw-protected"  # the attribute decides whether an access is private
    TDX = "tdx"  # each access says whether it is private
    SNP = "snp"

    @property
    def has_private_memory(self) -> bool:
        return self is not VmType.DEFAULT

    @property
    def guest_chooses(self) -> bool:
        return self in (VmType.TDX, VmType.SNP)


class AccessKind(IntFlag):
    """Bits of an exit's flags in unmerged series; upstream leaves them zero."""

    READ = 1
    WRITE = 2
    EXEC = 4


@dataclass(frozen=True, slots=True)
class VcpuExit:
    """KVM_RUN returned: ``errno`` is 0, or the error it failed with.

    ``flags`` are those of a memory fault; ``gpa`` and ``size`` in bytes are valid for MMIO and
    MEMORY_FAULT only.
    """

    errno: int
    reason: ExitReason
    flags: int = 0
    gpa: int = 0
    size: int = 0
    is_write: bool = False


@dataclass(slots=True)
class HypercallExit:
    """KVM_HC_MAP_GPA_RANGE: the VMM must set ``ret`` before it runs the vCPU again."""

    gpa: int
    pages: int
    attributes: int
    ret: int | None = None

    @property
    def to_private(self) -> bool:
        return bool(self.attributes & 1 << 4)
