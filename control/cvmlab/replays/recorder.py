# SPDX-License-Identifier: GPL-2.0-or-later
"""Record what a VM executes, and compare a replay with it.

QEMU counts instructions and keeps what comes from outside in a log; a replay takes it from there.  So
a recorded guest has one CPU, its clock is the number of instructions, and nobody changes it from
outside.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, final

import numpy as np

from cvmlab import __version__
from cvmlab.base.errors import ConfigError
from cvmlab.machine.spec import BootSpec, EventLoss
from cvmlab.memory.journal import JournalFile
from cvmlab.qemu.build import build_of
from cvmlab.replays import replay_folder
from cvmlab.replays import replay_manifest as files
from cvmlab.replays.replay_folder import ReplayFolder
from cvmlab.replays.replay_manifest import ReplayManifest
from cvmlab.runs.run_dir import RunDir
from cvmlab.snapshots.manifest import CONSOLE, EVENTS, EXEC, BaseDisk
from cvmlab.snapshots.spec_document import to_document


@dataclass(frozen=True, slots=True)
class Execution:
    """The log that goes with a VM: QEMU writes it, or, if the VM is *replayed*, reads it."""

    log: Path
    replayed: bool

    def require_overlays(self, spec: BootSpec, overlays: tuple[Path, ...]) -> None:
        """Raise ConfigError if what the guest writes to its disks would have no place of its own."""
        if spec.disks and not overlays:
            raise ConfigError(
                "the guest's writes to its disks have no place of their own",
                hint="run `cvmlab build`, which makes qemu-img",
            )

    def spec(self, spec: BootSpec) -> BootSpec:
        """Return *spec* as it is executed: no event may be lost."""
        return replace(spec, events=EventLoss.LOSSLESS)


def require_recordable(spec: BootSpec) -> None:
    """Raise ConfigError if the log would not have all that reaches the guest."""
    wrong = {
        "--coco off has no journal, and so nothing to record": not spec.restricted,
        "a recorded guest has one CPU": spec.cpus > 1,
        "a folder shared by 9p (--share) cannot be recorded": spec.share is not None,
        "--record and --gdb exclude each other: gdb is for the replay": spec.gdb is not None,
    }
    for sentence, applies in wrong.items():
        if applies:
            raise ConfigError(sentence, hint="leave one out, or boot without --record")


def require_no_recording(place: Path | None) -> None:
    """Raise ConfigError if a VM that is not booted is to be recorded."""
    if place is not None:
        raise ConfigError("only a boot can be recorded", hint="boot the guest with --record DIR")


class Executing(Protocol):
    """The part of Vm that is recorded; ``outcome`` is None until it has ended, ``problems`` are told
    beside it."""

    spec: BootSpec
    problems: list[str]

    @property
    def run(self) -> RunDir: ...

    @property
    def outcome(self) -> object | None: ...

    @property
    def qemu_version(self) -> str: ...

    @property
    def kernel_release(self) -> str | None: ...


@final
class Recorder:
    """Fills the folder *place* while a VM runs in the QEMU *program*."""

    def __init__(self, vm: Executing, place: Path, program: Path) -> None:
        self._vm = vm
        self._place = place.absolute()
        self._program = program

    @contextmanager
    def recording(self) -> Iterator[Execution]:
        """Make the folder ready; complete it when the VM has ended, and QEMU is gone.

        :raise ConfigError: this VM cannot be recorded, or not there.
        """
        require_recordable(self._vm.spec)
        replay_folder.begin(self._place, self._vm.spec)
        own = replay_folder.keep_boot_files(self._place, self._vm.spec)
        disks = [BaseDisk.of(disk.path) for disk in self._vm.spec.disks]
        try:
            yield Execution(self._place / files.LOG, replayed=False)
        finally:
            if self._vm.outcome is not None:  # else it never started
                self._finish(own, disks)

    def _finish(self, own_files: Mapping[Path, str], disks: list[BaseDisk]) -> None:
        run, spec = self._vm.run, self._vm.spec
        try:
            if not _is_whole(self._place / files.LOG):
                # What its log says in front is not there.
                self._vm.problems.append(f"nothing was recorded in {self._place}: QEMU was killed")
                return
            for source, name in (
                (run.events, EVENTS),
                (run.console_log, CONSOLE),
                (run.exec_log, EXEC),
            ):
                if source.exists():
                    shutil.copyfile(source, self._place / name)
        except OSError as error:
            raise replay_folder.not_written(self._place, error) from error
        manifest = ReplayManifest(
            cvmlab=__version__,
            recorded=datetime.now(UTC).isoformat(timespec="seconds"),
            qemu_version=self._vm.qemu_version,
            qemu_build=build_of(self._program),
            coco=spec.coco,
            records=len(JournalFile(run.events).records),
            release=self._vm.kernel_release,
            spec=to_document(spec, own_files),
            files={},
            disks=disks,
        )
        replay_folder.finish(self._place, manifest)


def _is_whole(log: Path) -> bool:
    """Return whether QEMU has ended the log in good order: it writes the version last."""
    with log.open("rb") as file:
        return any(file.read(4))


def require_same_qemu(recording: ReplayFolder, program: Path) -> None:
    """Raise ConfigError unless *program* is the QEMU that recorded: another one executes otherwise."""
    wanted, found = recording.manifest.qemu_build, build_of(program)
    if wanted != found:
        raise ConfigError(
            f"{recording.path} was recorded by another QEMU ({wanted}, not {found})",
            hint="choose that one with --qemu-version, or record the boot again",
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the journal of a replay compares: the number of records that are the same from the first
    one on, and how many each has."""

    same: int
    recorded: int
    replayed: int

    @property
    def is_identical(self) -> bool:
        return self.same == self.recorded == self.replayed

    @classmethod
    def of(cls, recorded: Path, replayed: Path) -> "Comparison":
        """Compare two journals, byte by byte."""
        first, second = JournalFile(recorded).records, JournalFile(replayed).records
        shorter = min(len(first), len(second))
        different = np.flatnonzero(first[:shorter] != second[:shorter])
        same = int(different[0]) if len(different) else shorter
        return cls(same, len(first), len(second))
