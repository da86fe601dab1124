# SPDX-License-Identifier: GPL-2.0-or-later
"""From a snapshot to a plan: the guest is not booted, and judged by how it ends from there."""

from dataclasses import replace
from functools import partial

from cvmlab.base.errors import ImageError
from cvmlab.boot.kernel_code import KernelCode
from cvmlab.boot.plan import Plan
from cvmlab.images.guest_files import no_module
from cvmlab.images.initrd_contents import InitrdModules
from cvmlab.images.kernel_image import identify
from cvmlab.images.kernel_tree import kernel_config
from cvmlab.images.symbols import LazySymbols, Symbols
from cvmlab.machine.spec import BootSpec
from cvmlab.qemu.program import locate_qemu
from cvmlab.snapshots.snapshot_folder import SnapshotFolder
from cvmlab.unwind.code import Code, LazyCode
from cvmlab.vm.launch import Setting
from cvmlab.vm.vm import WAIT_TIMEOUT_S


def _no_symbols() -> Symbols:
    raise ImageError("the kernel of a guest that boots from a disk is not known")


def plan_of(
    origin: SnapshotFolder,
    setting: Setting,
    *,
    expect: str | None = None,
    timeout_s: float = WAIT_TIMEOUT_S,
    gdb: str | None = None,
    attended: bool = False,
) -> Plan:
    """Return the plan that lets the guest of *origin* go on until it ends, or *expect* is seen.

    With *gdb*, a debugger sees private memory: who has the snapshot has it anyway.
    """
    debuggable = origin.spec.debuggable or gdb is not None
    spec = replace(origin.spec.without_ports, gdb=gdb, debuggable=debuggable)
    origin.spec = spec
    plan = plan_without_request(spec, setting, title=origin.path.name, timeout_s=timeout_s)
    return replace(
        plan,
        paused=gdb is not None or not origin.manifest.running,
        attended=attended,
        expect=expect,
        release=origin.manifest.release,
        origin=origin,
    )


def plan_without_request(spec: BootSpec, setting: Setting, *, title: str, timeout_s: float) -> Plan:
    """Return a plan for a VM of which all is known: nothing is asked, and it has no budgets."""
    kernel = spec.kernel
    is_linux = kernel is None or identify(kernel).is_linux
    known = None if kernel is None else KernelCode(kernel)
    words = f"{spec.architecture.append} {spec.append}".split()
    qemu = locate_qemu(setting.qemu, setting.qemu_version, spec.architecture)
    return Plan(
        title=title,
        variant=(),
        spec=spec,
        setting=replace(setting, qemu=qemu, keep=True),
        keep=setting.keep or setting.run_dir is not None,
        paused=False,
        attended=False,
        expect=None,
        runs_command=False,
        timeout_s=timeout_s,
        budgets=(),
        baseline=None,
        release=None,
        own_qemu=setting.qemu is None,
        kernel_config=(lambda: None) if kernel is None else partial(kernel_config, kernel),
        symbols=LazySymbols(_no_symbols if known is None else known.symbols),
        code=LazyCode(Code if known is None else known.code),
        module_file=no_module if spec.initrd is None else InitrdModules(spec.initrd).contents,
        is_linux=is_linux,
        fixed_addresses=not is_linux or "nokaslr" in words,
    )
