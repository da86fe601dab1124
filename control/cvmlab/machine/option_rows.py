# SPDX-License-Identifier: GPL-2.0-or-later
"""Every boot option, a row each.  To add one, add a row, and the field that it names.

The command line, Request, Vm(**options), the matrix file with its schema, and the pytest mark are
made from these rows; tests/unit/boot/test_boot_options.py follows each row into all of its forms.
"""

from collections.abc import Callable, Iterable
from importlib import import_module

from cvmlab.machine.option import Form, Group, Option, ValueKind
from cvmlab.memory.measures import BUDGET_METAVAR, MEASURES, Measures


_EVERYWHERE = Form.COMMAND | Form.SPEC | Form.MATRIX | Form.MARK
# What a request says and BootSpec does not: it goes into the guest's files.
_REQUEST = Form.COMMAND | Form.MATRIX | Form.MARK
_AXIS = Form.COMMAND | Form.SPEC | Form.AXIS | Form.MARK
# How a boot is judged: a test asserts, and needs no budgets.
_VERDICT = Form.COMMAND | Form.MATRIX
_RUN = Form.COMMAND | Form.SETTING | Form.MARK
_PROGRAM = Form.SPEC | Form.MARK  # for scripts and tests alone
_LIMIT_HELP = "in the run or in one phase; repeatable"


def _words(name: str, module: str = "machine.spec") -> Callable[[], Iterable[str]]:
    """Return what imports an enumeration when its words are asked for, and not before."""
    return lambda: getattr(import_module(f"cvmlab.{module}"), name)


def _profiles() -> Iterable[str]:
    from cvmlab.profiles.profile_rows import PROFILES

    return PROFILES.names


def _architectures() -> Iterable[str]:
    from cvmlab.profiles.architecture import ARCHITECTURES

    return ARCHITECTURES.names


def budget_options(measures: Measures = MEASURES) -> Iterable[Option]:
    """Yield an option for each budget of the table of measures."""
    for budget in measures.budgets:
        yield Option(
            name=budget.parameter,
            group=Group.VERDICT,
            forms=_VERDICT,
            kind=ValueKind.LIMIT,
            metavar=BUDGET_METAVAR,
            repeatable=True,
            help=f"Limit on {budget.limits}, {_LIMIT_HELP}",
        )


# fmt: off
_GUEST = (
    Option(
        name="image", group=Group.GUEST, forms=_REQUEST, metavar="IMAGE", is_argument=True,
        default="debian", help="Image to boot; `cvmlab images` lists them (default: {default})",
    ),
    Option(
        name="kernel", short="-k", group=Group.GUEST, forms=_EVERYWHERE, kind=ValueKind.FILE,
        metavar="FILE", help="Linux kernel, its build tree, or an ELF guest (PVH)",
    ),
    Option(
        name="initrd", group=Group.GUEST, forms=_EVERYWHERE, kind=ValueKind.FILE, metavar="FILE",
        help="Initial RAM disk, or `none` to boot without one",
    ),
    Option(
        name="append", group=Group.GUEST, forms=_EVERYWHERE, metavar="ARGS",
        help="Kernel parameters to add",
    ),
    Option(
        name="disk", python="disks", group=Group.GUEST, forms=_EVERYWHERE, kind=ValueKind.DISK,
        metavar="FILE", repeatable=True,
        help="Disk image, raw, qcow2, vmdk, vdi, vhdx or vhd; it is never written; repeatable",
    ),
    Option(
        name="exec", group=Group.GUEST, forms=_REQUEST, metavar="CMD",
        help="Run CMD in the guest and exit with its status",
    ),
    Option(
        name="share", group=Group.GUEST, forms=_EVERYWHERE, kind=ValueKind.FOLDER, metavar="DIR",
        help="Folder that the guest can read at /share",
    ),
    Option(
        name="user_data", group=Group.GUEST, forms=_REQUEST, kind=ValueKind.FILE, metavar="FILE",
        help="User data for cloud-init in a disk image",
    ),
    Option(
        name="console", group=Group.GUEST, forms=Form.COMMAND, kind=ValueKind.SWITCH,
        help="Connect this terminal to the guest console; Ctrl-] ends the VM",
    ),
)

_PROFILE = (
    Option(
        name="coco", group=Group.PROFILE, forms=_AXIS, kind=ValueKind.WORD, choices=_profiles,
        metavar="PROFILE", help="Confidential profile: {choices} (default: {default})",
    ),
    Option(
        name="coco_option", python="coco_options", field="guest_options", group=Group.PROFILE,
        forms=_EVERYWHERE, metavar="NAME=VALUE", repeatable=True,
        help="Property of QEMU's confidential-guest object, such as sept-ve-disable=off; repeatable",
    ),
    Option(
        name="mapgpa", group=Group.PROFILE, forms=_EVERYWHERE, metavar="POLICY",
        help="How the host answers MapGPA of a TDX guest: all, max:SIZE, retry:N or refuse "
        "(default: all)",
    ),
    Option(
        name="ripas", group=Group.PROFILE, forms=_EVERYWHERE, metavar="POLICY",
        help="How the host answers RIPAS requests of a CCA realm, as --mapgpa says it",
    ),
    Option(
        name="quotes", group=Group.PROFILE, forms=_EVERYWHERE, kind=ValueKind.SWITCH,
        help="Answer attestation requests with fake quotes and reports",
    ),
    Option(
        name="attest", group=Group.PROFILE, forms=_EVERYWHERE, kind=ValueKind.FOLDER, metavar="DIR",
        help="Answer attestation requests with quotes and reports that the test PKI in DIR signs; "
        "`cvmlab attest init` makes one",
    ),
    Option(
        name="attest_option", python="attest_options", group=Group.PROFILE, forms=_EVERYWHERE,
        metavar="NAME=VALUE", repeatable=True,
        help="With --attest: what the platform is, such as product=milan or fmspc=00906ed50000; repeatable",
    ),
    Option(
        name="attest_serve", group=Group.PROFILE, forms=_EVERYWHERE, kind=ValueKind.NUMBER, metavar="PORT",
        help="With --attest: have a PCCS and a KDS on this port of 127.0.0.1 while the VM runs",
    ),
    Option(
        name="quote_fault", group=Group.PROFILE, forms=_EVERYWHERE, metavar="FAULT",
        help="With --quotes or --attest: fail on purpose: error:N, truncate, slow:S, wrong-key, replay or never",
    ),
    Option(
        name="quote_socket", group=Group.PROFILE, forms=_PROGRAM, kind=ValueKind.PLACE,
        help="Socket of an attestation service",
    ),
    Option(
        name="on_host_access", group=Group.PROFILE, forms=_AXIS, kind=ValueKind.WORD,
        choices=_words("AccessPolicy"), metavar="POLICY",
        help="When the host touches private memory: {choices} (default: {default})",
    ),
    Option(
        name="on_pending", field="pending", group=Group.PROFILE, forms=_EVERYWHERE, kind=ValueKind.WORD,
        choices=_words("PendingPolicy"), metavar="POLICY",
        help="When the guest touches memory it has not accepted: {choices} (default: {default})",
    ),
    Option(
        name="layout", group=Group.PROFILE, forms=_PROGRAM, kind=ValueKind.WORD,
        choices=_words("Layout", "memory.states"), help="Where content is: {choices}",
    ),
    Option(
        name="events", group=Group.PROFILE, forms=_PROGRAM, kind=ValueKind.WORD,
        choices=_words("EventLoss"), help="When the event ring is full: {choices}",
    ),
    Option(
        name="stacks", group=Group.PROFILE, forms=_EVERYWHERE, kind=ValueKind.WORD,
        choices=_words("Stacks"), metavar="on|off",
        help="Keep the guest's call chain with events: {choices} (default: {default})",
    ),
    Option(
        name="debuggable", group=Group.PROFILE, forms=_EVERYWHERE, kind=ValueKind.SWITCH,
        help="Let the host see private memory and CPU state, for `cvmlab dump`, `cvmlab drgn` and debuggers: "
        "a debug TD, or an SEV policy that allows debugging",
    ),
)

_MACHINE = (
    Option(
        name="arch", field="architecture", group=Group.MACHINE, forms=_EVERYWHERE,
        kind=ValueKind.ROW, choices=_architectures, metavar="NAME",
        help="Architecture of the guest: {choices} (default: that of its kernel, else {default})",
    ),
    Option(
        name="memory", field="memory_bytes", short="-m", group=Group.MACHINE, forms=_AXIS,
        kind=ValueKind.SIZE, metavar="SIZE", help="Guest memory (default: {default})",
    ),
    Option(
        name="cpu", group=Group.MACHINE, forms=_EVERYWHERE, metavar="MODEL",
        help="Processor: sapphire-rapids, milan, genoa, turin, or what QEMU's -cpu takes "
        "(default: one that fits the profile)",
    ),
    Option(
        name="cpus", group=Group.MACHINE, forms=_AXIS, kind=ValueKind.NUMBER, metavar="N",
        help="Virtual CPUs (default: {default})",
    ),
    Option(
        name="firmware", group=Group.MACHINE, forms=_AXIS, kind=ValueKind.FIRMWARE, metavar="NAME|FILE",
        choices=_words("Firmware"),
        help="Firmware: {choices}, or a file (default: {default}, or direct; ovmf where a disk needs it)",
    ),
    Option(
        name="net", group=Group.MACHINE, forms=_EVERYWHERE, kind=ValueKind.WORD, choices=_words("Net"),
        metavar="TYPE", help="Network: {choices} (default: {default})",
    ),
    Option(
        name="disk_interface", group=Group.MACHINE, forms=_REQUEST, kind=ValueKind.WORD,
        choices=_words("DiskInterface"), metavar="TYPE", default="virtio-blk",
        help="Interface of the disks: {choices} (default: {default})",
    ),
    Option(
        name="tb_cache", field="tb_cache_bytes", group=Group.MACHINE, forms=_EVERYWHERE,
        kind=ValueKind.SIZE, metavar="SIZE",
        help="QEMU's cache of translated guest code (default: {default})",
    ),
    Option(
        name="name", group=Group.MACHINE, forms=_RUN, metavar="NAME", default="vm",
        help="Name of the VM for other commands, such as `cvmlab query` (default: {default})",
    ),
    Option(
        name="warm", group=Group.MACHINE, forms=_RUN | Form.MATRIX, kind=ValueKind.SWITCH,
        help="Start from the guest as it was when its agent said hello, if the same boot has kept it; "
        "keep it otherwise",
    ),
    Option(
        name="cold", group=Group.MACHINE, forms=_RUN, kind=ValueKind.SWITCH,
        help="Boot, even if --warm could start from a kept guest, and keep it anew",
    ),
    Option(
        name="device", python="devices", group=Group.MACHINE, forms=_EVERYWHERE, metavar="DEVICE",
        repeatable=True, help="A device more, as QEMU's -device takes it; repeatable",
    ),
    Option(
        name="iommu_platform", group=Group.MACHINE, forms=_PROGRAM, kind=ValueKind.SWITCH, help="Offer VIRTIO_F_ACCESS_PLATFORM",
    ),
    Option(
        name="allow_reboot", group=Group.MACHINE, forms=_EVERYWHERE, kind=ValueKind.SWITCH,
        help="Let the guest reset the machine instead of ending the run",
    ),
    Option(
        name="rng_seed", group=Group.MACHINE, forms=_PROGRAM, kind=ValueKind.NUMBER, help="Repeat QEMU's random numbers",
    ),
    Option(
        name="rom_dirs", group=Group.MACHINE, forms=_PROGRAM, kind=ValueKind.PLACE, repeatable=True, help="Firmware",
    ),
    Option(
        name="extra", group=Group.MACHINE, forms=_PROGRAM, repeatable=True,
        help="Words for the end of QEMU's command line",
    ),
    Option(
        name="ring_records", group=Group.MACHINE, forms=Form.SETTING | Form.MARK, kind=ValueKind.NUMBER, help="Size of the event ring",
    ),
    Option(
        name="private_file", group=Group.MACHINE, forms=Form.SETTING | Form.MARK, kind=ValueKind.OBJECT,
        help="Restricted memory file to use instead of a new one",
    ),
    Option(
        name="paused", group=Group.MACHINE, forms=Form.VM | Form.MARK, kind=ValueKind.SWITCH, help="Leave the CPUs stopped until cont()",
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

_JUDGED = (
    Option(
        name="expect", group=Group.VERDICT, forms=_VERDICT, kind=ValueKind.PATTERN, metavar="REGEX",
        help="Pass when REGEX appears on the console, and stop there",
    ),
    Option(
        name="timeout", group=Group.VERDICT, forms=_VERDICT, kind=ValueKind.SECONDS, metavar="SECONDS",
        default="120", help="Fail after this time (default: {default})",
    ),
    Option(
        name="allow_unaware", group=Group.VERDICT, forms=_EVERYWHERE, kind=ValueKind.SWITCH,
        help="Pass even if the guest's kernel never speaks the interface of its profile",
    ),
    Option(
        name="fail_on", group=Group.VERDICT, forms=_EVERYWHERE, kind=ValueKind.PATTERN, metavar="REGEX",
        repeatable=True,
        help="Fail if the kernel logs a line with REGEX; repeatable; oopses, BUGs, lockups, RCU stalls, "
        "UBSAN, lockdep and hung tasks always fail, but for `none`",
    ),
    Option(
        name="on_panic", group=Group.VERDICT, forms=_EVERYWHERE, kind=ValueKind.WORD,
        choices=_words("OnPanic"), metavar="POLICY",
        help="When the guest's kernel panics: {choices} (default: {default})",
    ),
    *budget_options(),
    Option(
        name="baseline", group=Group.VERDICT, forms=_VERDICT, kind=ValueKind.FILE, metavar="FILE",
        help="Fail if counts exceed those in FILE; `cvmlab baseline update` writes it",
    ),
)

_OUTPUT = (
    Option(
        name="json", group=Group.OUTPUT, forms=Form.COMMAND, metavar="FILE|-",
        help="Write result.json to FILE, or to standard output and the report to standard error",
    ),
    Option(
        name="junit", group=Group.OUTPUT, forms=Form.COMMAND, kind=ValueKind.PLACE, metavar="FILE", help="Write JUnit XML",
    ),
    Option(
        name="trace", group=Group.OUTPUT, forms=Form.COMMAND, kind=ValueKind.PLACE, metavar="FILE",
        help="Write a trace for ui.perfetto.dev",
    ),
    Option(
        name="html", group=Group.OUTPUT, forms=Form.COMMAND, kind=ValueKind.PLACE, metavar="FILE",
        help="Write the report as one HTML file",
    ),
    Option(
        name="run_dir", group=Group.OUTPUT, forms=_RUN, kind=ValueKind.PLACE, metavar="DIR",
        help="Keep console, logs and events in DIR",
    ),
    Option(
        name="keep", group=Group.OUTPUT, forms=_RUN, kind=ValueKind.SWITCH,
        help="Keep the run folder even if the boot passes",
    ),
    Option(
        name="keep_state", group=Group.OUTPUT, forms=_RUN, kind=ValueKind.SWITCH,
        help="If the boot fails, save the guest in the run folder, for `cvmlab restore`",
    ),
    Option(
        name="record", group=Group.OUTPUT, forms=_RUN, kind=ValueKind.PLACE, metavar="DIR",
        help="Record what the guest executes in DIR, for `cvmlab replay`",
    ),
    Option(
        name="verbose", short="-v", group=Group.OUTPUT, forms=Form.COMMAND, kind=ValueKind.SWITCH,
        help="Show the console and complete lists",
    ),
    Option(
        name="progress", group=Group.OUTPUT, forms=Form.COMMAND, kind=ValueKind.WORD, metavar="STYLE",
        choices=_words("Style", "base.progress"),
        help="How to show progress on standard error: {choices}",
    ),
)

_PUBLISHING = (
    Option(
        name="mqtt", group=Group.PUBLISHING, forms=Form.COMMAND, metavar="HOST[:PORT]",
        help="Publish to the MQTT broker at HOST",
    ),
    Option(
        name="mqtt_user", group=Group.PUBLISHING, forms=Form.COMMAND, metavar="NAME", help="User name",
    ),
    Option(
        name="mqtt_password_file", group=Group.PUBLISHING, forms=Form.COMMAND, kind=ValueKind.PLACE,
        metavar="FILE", help="File whose first line is the password (default: $CVMLAB_MQTT_PASSWORD)",
    ),
    Option(
        name="mqtt_tls", group=Group.PUBLISHING, forms=Form.COMMAND, kind=ValueKind.SWITCH, help="Use TLS",
    ),
    Option(
        name="mqtt_ca", group=Group.PUBLISHING, forms=Form.COMMAND, kind=ValueKind.PLACE, metavar="FILE",
        help="CA certificate file; implies TLS",
    ),
    Option(
        name="mqtt_commands", group=Group.PUBLISHING, forms=Form.COMMAND, kind=ValueKind.SWITCH,
        help="Obey convert, pause, cont and stop from the broker; needs a password",
    ),
)

_DEBUGGING = (
    Option(
        name="gdb", group=Group.DEBUGGING, forms=Form.COMMAND | Form.SPEC, kind=ValueKind.GDB,
        help="Wait for gdb on port 1234, and let it see private memory",
    ),
    Option(
        name="symbols", group=Group.DEBUGGING, forms=_REQUEST, kind=ValueKind.FILE, metavar="FILE",
        help="ELF file or System.map with the guest's function names",
    ),
    Option(
        name="qemu", group=Group.DEBUGGING, forms=_RUN | Form.MATRIX, kind=ValueKind.PROGRAM,
        metavar="PROGRAM", help="QEMU to run (default: the one that `cvmlab build` makes)",
    ),
    Option(
        name="qemu_version", group=Group.DEBUGGING, forms=_RUN | Form.MATRIX, metavar="VERSION",
        help="QEMU version to build and run: 10.0 or 11.1 (default: 10.0)",
    ),
    Option(
        name="dry_run", group=Group.DEBUGGING, forms=Form.COMMAND, kind=ValueKind.SWITCH,
        help="Check everything and print the QEMU command",
    ),
    Option(
        name="debug", group=Group.DEBUGGING, forms=Form.COMMAND, kind=ValueKind.SWITCH,
        help="Show tracebacks",
    ),
)
# fmt: on

OPTIONS = (
    *_GUEST, *_PROFILE, *_MACHINE, *_JUDGED, *_OUTPUT, *_PUBLISHING, *_DEBUGGING,
)  # fmt: skip
BY_NAME = {option.name: option for option in OPTIONS}


def having(form: Form) -> tuple[Option, ...]:
    """Return the options that have one of the forms in *form*."""
    return tuple(option for option in OPTIONS if option.forms & form)
