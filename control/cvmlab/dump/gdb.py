# SPDX-License-Identifier: GPL-2.0-or-later
"""Start gdb on a VM that has a gdb server, with the names of its kernel's functions."""

import asyncio
import base64
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from cvmlab.base.channel import Subscription
from cvmlab.base.errors import CommandRefused, ConfigError, DeadlineExceeded, VmExited
from cvmlab.debian.cache import kept, key_of
from cvmlab.debian.packages import OnStep, silent
from cvmlab.dump.notes import kernel_offset_of, split_notes
from cvmlab.dump.qemu_words import kernel_of, qemu_words, value_of
from cvmlab.images.debug_info import tree_vmlinux
from cvmlab.images.kernel_image import identify
from cvmlab.images.symbol_file import function_names
from cvmlab.images.symbols import from_elf
from cvmlab.images.vmlinux import extract_vmlinux
from cvmlab.profiles.architecture import ARCHITECTURES, DEFAULT_ARCHITECTURE, Architecture
from cvmlab.vm.attached import AttachedVm
from cvmlab.vm.qmp import QmpEvent


_KEPT = 4
_REPLAYS = "rr=replay"
_FIXED = "nokaslr"
_NOT_STARTED = "prelaunch"
_START_S = 3.0  # a guest that has not started by then is not about to


async def gdb_on_vm(
    vm: AttachedVm,
    words: Sequence[str],
    *,
    symbols: Path | None,
    timeout_s: float,
    on_step: OnStep = silent,
) -> list[str]:
    """Return the command that runs gdb on *vm*, with *words* at its end.

    A replay is waited for, until it stands still: gdb attaching to a running guest would remove the
    moment at which it is to stop.

    :raise ConfigError: the VM has no gdb server, or there is no gdb.
    :raise ImageError: the names of the kernel's functions cannot be had.
    :raise DeadlineExceeded: the replay did not come to its moment within *timeout_s*.
    """
    argv = qemu_words(vm.run.path)
    architecture = _architecture(argv)
    program = _program(architecture)
    server = _server(vm.name, value_of(argv, "-gdb"))
    if _REPLAYS in (value_of(argv, "-icount") or ""):
        await _stand_still(vm, timeout_s, on_step)
    kernel = kernel_of(argv)
    is_linux = kernel is None or identify(kernel).is_linux
    file = symbols
    if file is None and kernel is not None and is_linux:
        file = tree_vmlinux(kernel) or _made(kernel, architecture)
    named: list[str] = []
    if file is not None:
        is_fixed = not is_linux or _FIXED in (value_of(argv, "-append") or "").split()
        offset = 0 if is_fixed else await _offset(vm)
        named = ["-ex", f"symbol-file -o {offset:#x} {shlex.quote(str(file))}"]
    return [program, "-q", *named, "-ex", f"target remote {server}", *words]


def _architecture(argv: Sequence[str]) -> Architecture:
    """Return the row of the machine that QEMU was started with."""
    machine = (value_of(argv, "-machine") or "").partition(",")[0]
    rows = (row for row in ARCHITECTURES if row.machine.type == machine)
    return next(rows, DEFAULT_ARCHITECTURE)


def _program(architecture: Architecture) -> str:
    """Return the gdb that knows *architecture*."""
    found = next(filter(None, map(shutil.which, architecture.gdb)), None)
    if found is None:
        name = architecture.gdb[0]
        raise ConfigError(f"{name} is not installed", hint=f"install the package {name}")
    return found


def _server(name: str, option: str | None) -> str:
    """Return what gdb calls the place that QEMU's -gdb names."""
    if option is None:
        raise ConfigError(
            f"the VM {name} has no gdb server", hint="start it with --gdb (boot, restore, replay)"
        )
    return option.split(",", 1)[0].removeprefix("tcp:").removeprefix("unix:")


async def _stand_still(vm: AttachedVm, timeout_s: float, on_step: OnStep) -> None:
    """Return when the guest stands still: at its moment, or at its beginning and stays there."""
    with vm.connection.events() as events:
        status = await vm.command("query-status")
        if status["status"] == _NOT_STARTED and not await _comes(events, "RESUME", _START_S):
            return
        if status["status"] == _NOT_STARTED or status["running"]:
            on_step(f"waiting until the replay {vm.name} stops at its moment")
            if not await _comes(events, "STOP", timeout_s):
                raise DeadlineExceeded(f"the replay {vm.name} to stop", timeout_s)


async def _comes(events: Subscription[QmpEvent], name: str, timeout_s: float) -> bool:
    """Return whether an event of that name comes in time; raise VmExited if QEMU ends before."""
    try:
        async with asyncio.timeout(timeout_s):
            async for event in events:
                if event.name == name:
                    return True
    except TimeoutError:
        return False
    raise VmExited("the VM ended before gdb could look at it")


async def _offset(vm: AttachedVm) -> int:
    """Return how far KASLR has moved the kernel, as the guest tells."""
    try:
        facts = await vm.describe_core(private=True)
    except CommandRefused as error:
        raise ConfigError(f"gdb cannot look into the VM {vm.name}: {error.desc}") from error
    found = kernel_offset_of(list(split_notes(base64.b64decode(facts.notes))))
    if found is None:
        raise ConfigError(
            "where the guest's functions are is not known: its kernel moves itself (KASLR)",
            hint="boot it with --append nokaslr",
        )
    return found


def _made(kernel: Path, architecture: Architecture) -> Path:
    """Return a file with the names that the kernel itself has (kallsyms)."""

    def make(path: Path) -> None:
        symbols = from_elf(extract_vmlinux(kernel))
        path.write_bytes(function_names(symbols, architecture))

    return kept("function-names", ".elf", key_of(kernel), make, keep=_KEPT)
