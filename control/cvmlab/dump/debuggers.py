# SPDX-License-Identifier: GPL-2.0-or-later
"""Start drgn on a running VM or on a dump, with the symbols of its kernel."""

import base64
import shlex
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from cvmlab.base.errors import CommandRefused, ConfigError
from cvmlab.debian.packages import OnStep, silent
from cvmlab.dump.core_file import CoreFile
from cvmlab.dump.kdump_file import is_kdump, read_notes
from cvmlab.dump.notes import Note, release_of, split_notes
from cvmlab.dump.qemu_words import kernel_of, qemu_words
from cvmlab.images.debug_info import debug_vmlinux
from cvmlab.machine.command_line import debug_socket
from cvmlab.vm.attached import AttachedVm


async def drgn_on_vm(
    vm: AttachedVm, words: Sequence[str], *, symbols: Path | None, on_step: OnStep = silent
) -> list[str]:
    """Return the command that runs drgn on *vm*, with *words* at its end.

    :raise ConfigError: the VM is not debuggable, or there is no drgn.
    :raise ImageError: the kernel's debug information cannot be had.
    """
    program = _program()
    try:
        facts = await vm.describe_core(private=True)
    except CommandRefused as error:
        raise ConfigError(
            f"drgn cannot look into the VM {vm.name}: {error.desc}",
            hint="boot it with --debuggable",
        ) from error
    release = release_of(list(split_notes(base64.b64decode(facts.notes))))
    vmlinux = symbols or debug_vmlinux(release, kernel_of(qemu_words(vm.run.path)), on_step=on_step)
    socket = debug_socket(vm.run.path / "qmp.sock")
    if not socket.exists():  # the VM was upgraded
        socket = vm.run.path / "qmp.sock"
    return [*program, "--qemu", str(socket), *_symbols(vmlinux), *words]


def drgn_on_dump(
    dump: Path, words: Sequence[str], *, symbols: Path | None, on_step: OnStep = silent
) -> list[str]:
    """Return the command that runs drgn on the file *dump*; errors are those of drgn_on_vm()."""
    program = _program()
    vmlinux = symbols or debug_vmlinux(release_of(_notes(dump)), None, on_step=on_step)
    return [*program, "--core", str(dump), *_symbols(vmlinux), *words]


def _notes(dump: Path) -> Sequence[Note]:
    if is_kdump(dump):
        return read_notes(dump)
    with CoreFile(dump) as core:
        return core.notes


def _symbols(vmlinux: Path) -> list[str]:
    return ["--no-default-symbols", "--symbols", str(vmlinux)]


def _program() -> list[str]:
    if find_spec("drgn") is not None:
        return [sys.executable, "-m", "drgn"]
    found = shutil.which("drgn")
    if found is None:
        raise ConfigError(
            "drgn is not installed",
            hint=f"run: {shlex.quote(sys.executable)} -m pip install 'drgn>=0.3'",
        )
    return [found]
