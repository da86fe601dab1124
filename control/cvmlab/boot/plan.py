# SPDX-License-Identifier: GPL-2.0-or-later
"""From a request to what will run: request, words, guest files, machine, plan, each made of the last.

A plan is complete: to show it (``--dry-run``) and to run it need nothing else.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cvmlab.base.errors import BuildError
from cvmlab.base.progress import Style
from cvmlab.boot.boot_guest import guest_of
from cvmlab.boot.disk_architecture import require_architecture
from cvmlab.boot.guest_machine import machine_of
from cvmlab.boot.read_request import read_request
from cvmlab.boot.request import Request
from cvmlab.boot.words import Measured, Words
from cvmlab.debian.packages import OnStep, silent
from cvmlab.images.guest_files import GuestFiles
from cvmlab.images.symbols import LazySymbols
from cvmlab.machine.command_line import EXAMPLE_FDS, Channels, command_line
from cvmlab.machine.spec import BootSpec
from cvmlab.profiles.architecture import Architecture
from cvmlab.profiles.profile import Profiles
from cvmlab.profiles.profile_rows import PROFILES
from cvmlab.qemu.build import install, qemu_binary, qemu_img
from cvmlab.qemu.program import locate_qemu
from cvmlab.qemu.recipe import Flavour
from cvmlab.replays.moment import Moment
from cvmlab.replays.replay_folder import ReplayFolder
from cvmlab.results.budgets import Budget
from cvmlab.runs.run_dir import runs_dir
from cvmlab.snapshots.snapshot_folder import SnapshotFolder
from cvmlab.unwind.code import LazyCode
from cvmlab.vm.launch import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A boot that can start: what, where, until when, and how it is judged."""

    title: str
    variant: tuple[str, ...]
    spec: BootSpec
    setting: Setting
    keep: bool
    paused: bool
    attended: bool
    expect: str | None
    runs_command: bool
    timeout_s: float
    budgets: tuple[Budget, ...]
    baseline: Measured | None
    release: str | None
    own_qemu: bool  # the one that `cvmlab build` made, or CVMLAB_QEMU
    kernel_config: Callable[[], str | None]  # read when it is asked for
    symbols: LazySymbols
    code: LazyCode
    module_file: Callable[[str], bytes | None]  # a module's ELF file, by name
    is_linux: bool  # and not an ELF guest, which may live anywhere
    fixed_addresses: bool  # the kernel runs where it was linked
    origin: SnapshotFolder | None = None  # where the guest was saved, if it is not booted
    recording: ReplayFolder | None = None  # what is executed again
    until: Moment | None = None  # where the guest is stopped, which is then a good end

    @property
    def argv(self) -> list[str]:
        """The QEMU command; descriptor numbers and run folder are those of no real run."""
        folder = self.setting.run_dir or runs_dir() / self.setting.name
        fds = EXAMPLE_FDS if self.spec.restricted else None
        asked = self.setting
        qemu = locate_qemu(asked.qemu, asked.qemu_version, self.spec.architecture)
        return command_line(qemu, self.spec, Channels.example(folder), fds)


def plan(
    request: Request,
    *,
    build: bool = True,
    style: Style = Style.AUTO,
    on_step: OnStep = silent,
    profiles: Profiles = PROFILES,
) -> Plan:
    """Check everything and find all files; raise CvmError for the first thing that is wrong.

    *build*: make QEMU if it is missing, and show progress in *style*.  *profiles*: what --coco may be.
    """
    words = read_request(request, profiles)
    qemu = _qemu(words.setting, words.machine.architecture, build=build, style=style)
    _require_disk(words)
    guest = guest_of(words, on_step, style)
    return _plan(words, guest, machine_of(words, guest), qemu)


def _plan(words: Words, guest: GuestFiles, machine: BootSpec, qemu: Path) -> Plan:
    setting, judge = words.setting, words.judge
    return Plan(
        title=words.title,
        variant=words.variant,
        spec=machine,
        # The run folder is kept until the verdict, which comes after the end of the VM.
        setting=replace(setting, qemu=qemu, keep=True),
        keep=setting.keep or setting.run_dir is not None,
        paused=words.paused,
        attended=words.guest.console,
        expect=judge.expect,
        runs_command=words.guest.exec is not None,
        timeout_s=judge.timeout_s,
        budgets=judge.budgets,
        baseline=judge.baseline,
        release=guest.release,
        own_qemu=setting.qemu is None,
        kernel_config=guest.load_config,
        symbols=LazySymbols(guest.load_symbols),
        code=LazyCode(guest.load_code),
        module_file=guest.module_file,
        is_linux=guest.is_linux,
        fixed_addresses=guest.fixed_addresses,
    )


def _require_disk(words: Words) -> None:
    """Raise ConfigError if a user's disk is for another architecture."""
    machine, version = words.machine, words.setting.qemu_version
    if words.guest.boots_from_disk and words.guest.disk_recipe is None:
        with suppress(BuildError):  # without qemu-img, nothing is known of an image
            require_architecture(
                machine.disks[0],
                machine.architecture,
                lambda: qemu_img(version, machine.architecture, build=False),
            )


def _qemu(setting: Setting, architecture: Architecture, *, build: bool, style: Style) -> Path:
    chosen, version = setting.qemu, setting.qemu_version
    is_named = chosen is not None or (version is None and architecture.qemu_variable in os.environ)
    if build and not is_named:
        built = install(Flavour.PATCHED, version, style=style, architecture=architecture)
        return built / "bin" / architecture.qemu
    return locate_qemu(chosen or qemu_binary(version, architecture, build=False))
