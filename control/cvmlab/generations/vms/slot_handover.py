# SPDX-License-Identifier: GPL-2.0-or-later
"""Move the memory of a running guest to another VM, where binding is delayed until first use."""

from cvmlab.generations.files.guest_memfd import GuestMemfd
from cvmlab.generations.vms.kvm import EmulatedVm
from cvmlab.generations.vms.slots import Memslot


def migrate(inode: GuestMemfd, source: EmulatedVm, destination: EmulatedVm) -> None:
    """Unbind the file from *source* and bind it to *destination*, with contents, as one step.

    Every bound slot of the source needs a slot of the same GPA, size and offset on the same file in the
    destination.

    :raise Refusal: nothing has changed; the source keeps running.
    """
    leaving = [item for item in inode.bindings if _vm_of(item.notifier) is source]
    pairs = [(slot, _twin(slot, inode, destination)) for slot in map(_slot_of, leaving) if slot]
    inode.require(
        "migrate",
        {
            "same-vm": source is destination,
            "source-differs": inode.owner is not source or not leaving,
            "slot-missing": any(twin is None for _, twin in pairs),
            "destination-busy": any(
                _vm_of(item.notifier) is destination for item in inode.bindings
            ),
        },
    )
    inode.require("lock", {"invalidating": inode.bindings.running > 0})
    for old, new in pairs:
        if old.binding is not None and new is not None:
            inode.unbind(old.binding)
            old.binding = None
            destination.bind_slot(new, inode)
    inode.owner = destination
    inode.world.trace.note("migrate", 0, inode.pages)


def _slot_of(notifier: object) -> Memslot | None:
    listener = getattr(notifier, "notifier", notifier)
    return listener if isinstance(listener, Memslot) else None


def _vm_of(notifier: object) -> object:
    slot = _slot_of(notifier)
    return slot.vm if slot else None


def _twin(slot: Memslot, inode: GuestMemfd, destination: EmulatedVm) -> Memslot | None:
    """Return the destination's slot for the same memory, or None."""
    place = (slot.region.gpa, slot.region.size, slot.region.offset)
    for other in destination.slots.values():
        if other.inode is inode and (
            place == (other.region.gpa, other.region.size, other.region.offset)
        ):
            return other
    return None
