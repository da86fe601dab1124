# SPDX-License-Identifier: GPL-2.0-or-later
"""The rows of options that say what is booted, under which profile, and on which machine."""

from collections.abc import Iterable

from cvmlab.machine.option import Form, Group, Option, ValueKind
from cvmlab.machine.option_forms import AXIS, EVERYWHERE, PROGRAM, REQUEST, RUN, words


def _profiles() -> Iterable[str]:
    from cvmlab.profiles.profile_rows import PROFILES

    return PROFILES.names


def _architectures() -> Iterable[str]:
    from cvmlab.profiles.architecture import ARCHITECTURES

    return ARCHITECTURES.names


# fmt: off
GUEST = (
    Option(
        name="image", group=Group.GUEST, forms=REQUEST, metavar="IMAGE", is_argument=True,
        default="debian", help="Image to boot; `cvmlab images` lists them (default: {default})",
    ),
    Option(
        name="kernel", short="-k", group=Group.GUEST, forms=EVERYWHERE, kind=ValueKind.FILE,
        metavar="FILE", help="Linux kernel, its build tree, or an ELF guest (PVH)",
    ),
    Option(
        name="initrd", group=Group.GUEST, forms=EVERYWHERE, kind=ValueKind.FILE, metavar="FILE",
        help="Initial RAM disk, or `none` to boot without one",
    ),
    Option(
        name="append", group=Group.GUEST, forms=EVERYWHERE, metavar="ARGS",
        help="Kernel parameters to add",
    ),
    Option(
        name="disk", python="disks", group=Group.GUEST, forms=EVERYWHERE, kind=ValueKind.DISK,
        metavar="FILE", repeatable=True,
        help="Disk image, raw, qcow2, vmdk, vdi, vhdx or vhd; it is never written; repeatable",
    ),
    Option(
        name="exec", group=Group.GUEST, forms=REQUEST, metavar="CMD",
        help="Run CMD in the guest and exit with its status",
    ),
    Option(
        name="share", group=Group.GUEST, forms=EVERYWHERE, kind=ValueKind.FOLDER, metavar="DIR",
        help="Folder that the guest can read at /share",
    ),
    Option(
        name="user_data", group=Group.GUEST, forms=REQUEST, kind=ValueKind.FILE, metavar="FILE",
        help="User data for cloud-init in a disk image",
    ),
    Option(
        name="console", group=Group.GUEST, forms=Form.COMMAND, kind=ValueKind.SWITCH,
        help="Connect this terminal to the guest console; Ctrl-] ends the VM",
    ),
)

PROFILE = (
    Option(
        name="coco", group=Group.PROFILE, forms=AXIS, kind=ValueKind.WORD, choices=_profiles,
        metavar="PROFILE", help="Confidential profile: {choices} (default: {default})",
    ),
    Option(
        name="coco_option", python="coco_options", field="guest_options", group=Group.PROFILE,
        forms=EVERYWHERE, metavar="NAME=VALUE", repeatable=True,
        help="Property of QEMU's confidential-guest object, such as sept-ve-disable=off; repeatable",
    ),
    Option(
        name="mapgpa", group=Group.PROFILE, forms=EVERYWHERE, metavar="POLICY",
        help="How the host answers MapGPA of a TDX guest: all, max:SIZE, retry:N or refuse "
        "(default: all)",
    ),
    Option(
        name="ripas", group=Group.PROFILE, forms=EVERYWHERE, metavar="POLICY",
        help="How the host answers RIPAS requests of a CCA realm, as --mapgpa says it; "
        "partial:SIZE is max:SIZE",
    ),
    Option(
        name="quotes", group=Group.PROFILE, forms=EVERYWHERE, kind=ValueKind.SWITCH,
        help="Answer attestation requests with fake quotes and reports",
    ),
    Option(
        name="attest", group=Group.PROFILE, forms=EVERYWHERE, kind=ValueKind.FOLDER, metavar="DIR",
        help="Answer attestation requests with quotes and reports that the test PKI in DIR signs; "
        "`cvmlab attest init` makes one",
    ),
    Option(
        name="attest_option", python="attest_options", group=Group.PROFILE, forms=EVERYWHERE,
        metavar="NAME=VALUE", repeatable=True,
        help="With --attest: what the platform is, such as product=milan or fmspc=00906ed50000; repeatable",
    ),
    Option(
        name="attest_serve", group=Group.PROFILE, forms=EVERYWHERE, kind=ValueKind.NUMBER, metavar="PORT",
        help="With --attest: have a PCCS and a KDS on this port of 127.0.0.1 while the VM runs",
    ),
    Option(
        name="quote_fault", group=Group.PROFILE, forms=EVERYWHERE, metavar="FAULT",
        help="With --quotes or --attest: fail on purpose: error:N, truncate, slow:S, wrong-key, replay or never",
    ),
    Option(
        name="quote_socket", group=Group.PROFILE, forms=PROGRAM, kind=ValueKind.PLACE,
        help="Socket of an attestation service",
    ),
    Option(
        name="on_host_access", group=Group.PROFILE, forms=AXIS, kind=ValueKind.WORD,
        choices=words("AccessPolicy"), metavar="POLICY",
        help="When the host touches private memory: {choices} (default: {default})",
    ),
    Option(
        name="on_pending", field="pending", group=Group.PROFILE, forms=EVERYWHERE, kind=ValueKind.WORD,
        choices=words("PendingPolicy"), metavar="POLICY",
        help="When the guest touches memory it has not accepted: {choices} (default: {default})",
    ),
    Option(
        name="layout", group=Group.PROFILE, forms=PROGRAM, kind=ValueKind.WORD,
        choices=words("Layout", "memory.states"), help="Where content is: {choices}",
    ),
    Option(
        name="events", group=Group.PROFILE, forms=PROGRAM, kind=ValueKind.WORD,
        choices=words("EventLoss"), help="When the event ring is full: {choices}",
    ),
    Option(
        name="stacks", group=Group.PROFILE, forms=EVERYWHERE, kind=ValueKind.WORD,
        choices=words("Stacks"), metavar="on|off",
        help="Keep the guest's call chain with events: {choices} (default: {default})",
    ),
    Option(
        name="debuggable", group=Group.PROFILE, forms=EVERYWHERE, kind=ValueKind.SWITCH,
        help="Let the host see private memory and CPU state, for `cvmlab dump`, `cvmlab drgn` and debuggers: "
        "a debug TD, or an SEV policy that allows debugging",
    ),
)

MACHINE = (
    Option(
        name="arch", field="architecture", group=Group.MACHINE, forms=EVERYWHERE,
        kind=ValueKind.ROW, choices=_architectures, metavar="NAME",
        help="Architecture of the guest: {choices} (default: that of its kernel, else {default})",
    ),
    Option(
        name="memory", field="memory_bytes", short="-m", group=Group.MACHINE, forms=AXIS,
        kind=ValueKind.SIZE, metavar="SIZE", help="Guest memory (default: {default})",
    ),
    Option(
        name="cpu", group=Group.MACHINE, forms=EVERYWHERE, metavar="MODEL",
        help="Processor: sapphire-rapids, milan, genoa, turin, or what QEMU's -cpu takes "
        "(default: one that fits the profile)",
    ),
    Option(
        name="cpus", group=Group.MACHINE, forms=AXIS, kind=ValueKind.NUMBER, metavar="N",
        help="Virtual CPUs (default: {default})",
    ),
    Option(
        name="firmware", group=Group.MACHINE, forms=AXIS, kind=ValueKind.FIRMWARE, metavar="NAME|FILE",
        choices=words("Firmware"),
        help="Firmware: {choices}, or a file (default: {default}, or direct; ovmf where a disk needs it)",
    ),
    Option(
        name="net", group=Group.MACHINE, forms=EVERYWHERE, kind=ValueKind.WORD, choices=words("Net"),
        metavar="TYPE", help="Network: {choices} (default: {default})",
    ),
    Option(
        name="disk_interface", group=Group.MACHINE, forms=REQUEST, kind=ValueKind.WORD,
        choices=words("DiskInterface"), metavar="TYPE", default="virtio-blk",
        help="Interface of the disks: {choices} (default: {default})",
    ),
    Option(
        name="tb_cache", field="tb_cache_bytes", group=Group.MACHINE, forms=EVERYWHERE,
        kind=ValueKind.SIZE, metavar="SIZE",
        help="QEMU's cache of translated guest code (default: {default})",
    ),
    Option(
        name="name", group=Group.MACHINE, forms=RUN, metavar="NAME", default="vm",
        help="Name of the VM for other commands, such as `cvmlab query` (default: {default})",
    ),
    Option(
        name="warm", group=Group.MACHINE, forms=RUN | Form.MATRIX, kind=ValueKind.SWITCH,
        help="Start from the guest as it was when its agent said hello, if the same boot has kept it; "
        "keep it otherwise",
    ),
    Option(
        name="cold", group=Group.MACHINE, forms=RUN, kind=ValueKind.SWITCH,
        help="Boot, even if --warm could start from a kept guest, and keep it anew",
    ),
    Option(
        name="device", python="devices", group=Group.MACHINE, forms=EVERYWHERE, metavar="DEVICE",
        repeatable=True, help="A device more, as QEMU's -device takes it; repeatable",
    ),
    Option(
        name="iommu_platform", group=Group.MACHINE, forms=PROGRAM, kind=ValueKind.SWITCH,
        help="Offer VIRTIO_F_ACCESS_PLATFORM",
    ),
    Option(
        name="allow_reboot", group=Group.MACHINE, forms=EVERYWHERE, kind=ValueKind.SWITCH,
        help="Let the guest reset the machine instead of ending the run",
    ),
    Option(
        name="rng_seed", group=Group.MACHINE, forms=PROGRAM, kind=ValueKind.NUMBER,
        help="Make QEMU's random numbers repeat",
    ),
    Option(
        name="rom_dirs", group=Group.MACHINE, forms=PROGRAM, kind=ValueKind.PLACE, repeatable=True,
        help="Folders of firmware",
    ),
    Option(
        name="extra", group=Group.MACHINE, forms=PROGRAM, repeatable=True,
        help="Words for the end of QEMU's command line",
    ),
    Option(
        name="ring_records", group=Group.MACHINE, forms=Form.SETTING | Form.MARK, kind=ValueKind.NUMBER,
        help="Size of the event ring",
    ),
    Option(
        name="private_file", group=Group.MACHINE, forms=Form.SETTING | Form.MARK, kind=ValueKind.OBJECT,
        help="Restricted memory file to use instead of a new one",
    ),
    Option(
        name="paused", group=Group.MACHINE, forms=Form.VM | Form.MARK, kind=ValueKind.SWITCH,
        help="Leave the CPUs stopped until cont()",
    ),
    Option(
        name="start_timeout_s", group=Group.MACHINE, forms=Form.SETTING | Form.MARK,
        kind=ValueKind.SECONDS, help="Seconds in which QEMU has to start",
    ),
    Option(
        name="stop_timeout_s", group=Group.MACHINE, forms=Form.SETTING | Form.MARK,
        kind=ValueKind.SECONDS, help="Seconds in which QEMU has to quit",
    ),
)
# fmt: on
