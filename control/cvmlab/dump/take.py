# SPDX-License-Identifier: GPL-2.0-or-later
"""Take a dump of a running VM, or make one from the core that a run has kept.

The guest stands still while its memory is copied into an ELF core, and no longer: other formats are
made from that.  QEMU is asked first, so that the journal says who reads, and a VM that is not
debuggable refuses.
"""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cvmlab.base.errors import CommandRefused, ConfigError, CvmError
from cvmlab.dump.contents import Holder, Reach, extents, pieces
from cvmlab.dump.core_file import CoreContent, CoreFile, write_core
from cvmlab.dump.kdump_file import write_kdump
from cvmlab.dump.notes import PageStates, split_notes
from cvmlab.dump.saved_states import save_states, sidecar_of
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.memory.states import Layout
from cvmlab.vm.attached import AttachedVm
from cvmlab.vm.operations import BackendInfo, CoreFacts
from cvmlab.vm.vm import Vm


class DumpFormat(StrEnum):
    """The formats of a dump."""

    ELF = "elf"
    KDUMP = "kdump"


@dataclass(frozen=True, slots=True)
class Taken:
    """``size`` is that of the file on disk; ``standstill_s`` is how long the guest stood still."""

    file: Path
    sidecar: Path
    size: int
    standstill_s: float
    reach: Reach


async def take_dump(
    vm: Vm | AttachedVm, file: Path, *, form: DumpFormat, reach: Reach = Reach.ALL
) -> Taken:
    """Write the memory of *vm* to *file*, and the state of each page beside it.

    :raise ConfigError: the VM has no restricted memory; private memory is asked for, and it is not
        debuggable; or the file cannot be written, and then there is none.
    """
    _require_place(file)
    files = vm.memory_files
    with _placed(file) as fresh:
        core = fresh if form is DumpFormat.ELF else fresh.with_name(f"{fresh.name}.core")
        async with _standing_still(vm) as standstill:
            content = _content(await _facts(vm, reach), await vm.query(), files, reach)
            await _in_thread(write_core, core, content, _files(files))
        if form is DumpFormat.KDUMP:
            await _in_thread(_make_kdump, core, fresh, Reach.ALL)
    return _finish(file, content, standstill())


def convert_dump(core: Path, file: Path, *, form: DumpFormat, reach: Reach = Reach.ALL) -> Taken:
    """Write *file* from the ELF core of a run that has ended; errors are those of take_dump()."""
    _require_place(file)
    with CoreFile(core) as source, _placed(file) as fresh:
        if reach is Reach.ALL and not source.states.has_private:
            raise ConfigError(
                f"{core} has no private memory", hint="--private no makes a dump of the rest"
            )
        content = source.content(reach)
        if form is DumpFormat.KDUMP:
            write_kdump(fresh, content, source.fd)
        else:
            write_core(fresh, content, {Holder.PRIVATE: source.fd})
    return _finish(file, content, 0.0)


async def leave_core(vm: Vm) -> None:
    """Leave an ELF core of a guest that has ended in its run folder.

    What keeps it from being written is added to the VM's problems.
    """
    try:
        await take_dump(vm, vm.run.memory_core, form=DumpFormat.ELF)
    except CvmError as error:
        vm.problems.append(f"the memory was not dumped: {error.message}")


def _make_kdump(core: Path, file: Path, reach: Reach) -> None:
    try:
        with CoreFile(core) as source:
            write_kdump(file, source.content(reach), source.fd)
    finally:
        core.unlink()


async def _facts(vm: Vm | AttachedVm, reach: Reach) -> CoreFacts:
    try:
        return await vm.describe_core(private=reach is Reach.ALL)
    except CommandRefused as error:
        raise ConfigError(
            f"private memory cannot be dumped: {error.desc}",
            hint="boot the VM with --debuggable, or dump what it shares, with --private no",
        ) from error


def _content(
    facts: CoreFacts, info: BackendInfo, files: RestrictedFiles, reach: Reach
) -> CoreContent:
    table = files.page_table()
    slots = tuple(sorted(info.memory_slots, key=lambda slot: slot.gpa))
    found = pieces(slots, table.iterate_runs(), Layout(info.layout), reach)
    return CoreContent(
        machine=facts.machine,
        notes=list(split_notes(base64.b64decode(facts.notes))),
        states=PageStates(slots, table.states(), facts.view_bit, reach is Reach.ALL),
        extents=extents(found),
    )


def _files(files: RestrictedFiles) -> dict[Holder, int]:
    shared = {} if files.fds.shared is None else {Holder.SHARED: files.fds.shared}
    return {Holder.PRIVATE: files.fds.private, **shared}


@asynccontextmanager
async def _standing_still(vm: Vm | AttachedVm) -> AsyncIterator[Callable[[], float]]:
    """Pause the guest if it runs; yield what returns, afterwards, how long that was."""
    ran = (await vm.command("query-status"))["running"]
    started = time.monotonic()
    ended = started
    if ran:
        await vm.pause()
    try:
        yield lambda: ended - started
    finally:
        if ran:
            await vm.cont()
            ended = time.monotonic()


async def _in_thread(work: Callable[..., object], *arguments: object) -> None:
    """Run *work* to its end, even if the task is cancelled: it reads files that would be closed."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _require_place(file: Path) -> None:
    if file.exists() and not file.is_file():
        raise ConfigError(f"{file} is not a file", hint="give the path of a file to write")
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder {file.absolute().parent}")


@contextmanager
def _placed(file: Path) -> Iterator[Path]:
    """Yield a path to write to, which takes the place of *file* in the end, or is removed."""
    fresh = file.with_name(f".{file.name}.new")
    try:
        yield fresh
        fresh.replace(file)
    except OSError as error:
        raise ConfigError(
            f"the dump {file} cannot be written: {error.strerror}",
            hint="it needs as much room as the guest uses memory; choose another place",
        ) from error
    finally:
        for left in (fresh, fresh.with_name(f"{fresh.name}.core")):
            left.unlink(missing_ok=True)


def _finish(file: Path, content: CoreContent, standstill_s: float) -> Taken:
    sidecar = sidecar_of(file)
    with _placed(sidecar) as fresh:
        save_states(fresh, content.states)
    reach = Reach.ALL if content.states.has_private else Reach.SHARED
    return Taken(file, sidecar, file.stat().st_blocks * 512, standstill_s, reach)
