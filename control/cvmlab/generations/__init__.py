# SPDX-License-Identifier: GPL-2.0-or-later
"""Emulated restricted memory files of each kernel generation, and a running VM on one of them."""

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from cvmlab.generations.conversion import ContentFlag, ConvertRequest, Unspecified, convert
    from cvmlab.generations.engine import Kernel, emulate
    from cvmlab.generations.faults import FaultKind, FaultPlan, PlannedFault
    from cvmlab.generations.files.bindings import Binding, Notifier
    from cvmlab.generations.files.guest_memfd import GuestMemfdFlags
    from cvmlab.generations.files.huge_pages import HugePool
    from cvmlab.generations.files.open_file import Fd
    from cvmlab.generations.files.pins import Hold
    from cvmlab.generations.host.host_view import HostView
    from cvmlab.generations.host.live_file import LiveFile
    from cvmlab.generations.host.mapping import BusError, HostMapping, map_file
    from cvmlab.generations.hugetlb import HugeKvm
    from cvmlab.generations.refusal import Oops, Refusal
    from cvmlab.generations.rulebook import Generation
    from cvmlab.generations.seal_guest import Seal
    from cvmlab.generations.trace import Trace
    from cvmlab.generations.vms.exits import ExitReason, HypercallExit, VcpuExit, VmType
    from cvmlab.generations.vms.private_slots import PrivateVm
    from cvmlab.generations.vms.slot_handover import migrate
    from cvmlab.generations.vms.slots import Region, SlotFlags, Userspace


_HOMES = {
    "Binding": "files.bindings",
    "BusError": "host.mapping",
    "ContentFlag": "conversion",
    "ConvertRequest": "conversion",
    "ExitReason": "vms.exits",
    "FaultKind": "faults",
    "FaultPlan": "faults",
    "Fd": "files.open_file",
    "Generation": "rulebook",
    "GuestMemfdFlags": "files.guest_memfd",
    "Hold": "files.pins",
    "HostMapping": "host.mapping",
    "HostView": "host.host_view",
    "HugeKvm": "hugetlb",
    "HugePool": "files.huge_pages",
    "HypercallExit": "vms.exits",
    "Kernel": "engine",
    "LiveFile": "host.live_file",
    "Notifier": "files.bindings",
    "Oops": "refusal",
    "PlannedFault": "faults",
    "PrivateVm": "vms.private_slots",
    "Refusal": "refusal",
    "Region": "vms.slots",
    "Seal": "seal_guest",
    "SlotFlags": "vms.slots",
    "Trace": "trace",
    "Unspecified": "conversion",
    "Userspace": "vms.slots",
    "VcpuExit": "vms.exits",
    "VmType": "vms.exits",
    "convert": "conversion",
    "emulate": "engine",
    "map_file": "host.mapping",
    "migrate": "vms.slot_handover",
}
__all__ = [
    "Binding",
    "BusError",
    "ContentFlag",
    "ConvertRequest",
    "ExitReason",
    "FaultKind",
    "FaultPlan",
    "Fd",
    "Generation",
    "GuestMemfdFlags",
    "Hold",
    "HostMapping",
    "HostView",
    "HugeKvm",
    "HugePool",
    "HypercallExit",
    "Kernel",
    "LiveFile",
    "Notifier",
    "Oops",
    "PlannedFault",
    "PrivateVm",
    "Refusal",
    "Region",
    "Seal",
    "SlotFlags",
    "Trace",
    "Unspecified",
    "Userspace",
    "VcpuExit",
    "VmType",
    "convert",
    "emulate",
    "map_file",
    "migrate",
]


def __getattr__(name: str) -> object:
    """Import a public name only when it is asked for: a file needs no event loop or QEMU."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cvmlab.generations' has no attribute {name!r}")
    return getattr(import_module(f"cvmlab.generations.{_HOMES[name]}"), name)
