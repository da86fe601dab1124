# SPDX-License-Identifier: GPL-2.0-or-later
"""From a snapshot to a plan: the guest is not booted, and judged by how it ends from there."""

from dataclasses import replace
from functools import partial

from cvmlab.base.errors import ImageError
from cvmlab.boot.disk_files import code_of, elf_of, symbols_of
from cvmlab.boot.plan import Plan
from cvmlab.images.guest_files import no_module
from cvmlab.images.kernel_image import identify
from cvmlab.images.kernel_tree import kernel_config
from cvmlab.images.symbols import LazySymbols
from cvmlab.snapshots.snapshot_folder import SnapshotFolder
from cvmlab.unwind.code import LazyCode
from cvmlab.vm.launch import Setting, locate_qemu
from cvmlab.vm.vm import WAIT_TIMEOUT_S


def _no_kernel() -> bytes:
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
    qemu = locate_qemu(setting.qemu, setting.qemu_version)
    spec = replace(origin.spec, gdb=gdb, debuggable=origin.spec.debuggable or gdb is not None)
    origin.spec = spec
    kernel = spec.kernel
    is_linux = kernel is None or identify(kernel).is_linux
    elf = _no_kernel if kernel is None else elf_of(kernel)
    words = f"{spec.architecture.append} {spec.append}".split()
    return Plan(
        title=origin.path.name,
        variant=(),
        spec=spec,
        setting=replace(setting, qemu=qemu, keep=True),
        keep=setting.keep or setting.run_dir is not None,
        paused=gdb is not None or not origin.manifest.running,
        attended=attended,
        expect=expect,
        runs_command=False,
        timeout_s=timeout_s,
        budgets=(),
        baseline=None,
        release=origin.manifest.release,
        own_qemu=setting.qemu is None,
        kernel_config=(lambda: None) if kernel is None else partial(kernel_config, kernel),
        symbols=LazySymbols(partial(symbols_of, None, elf)),
        code=LazyCode(partial(code_of, elf)),
        module_file=no_module,
        is_linux=is_linux,
        fixed_addresses=not is_linux or "nokaslr" in words,
        origin=origin,
    )
