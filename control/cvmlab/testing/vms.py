# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs of a test: a fixture boots and ends them, and describes them when the test fails."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, final

from cvmlab.base.errors import BuildError, ConfigError, ImageError
from cvmlab.boot.awareness import unaware, weigh
from cvmlab.boot.judge import naming_of
from cvmlab.boot.plan import Plan, plan
from cvmlab.boot.request import Request
from cvmlab.machine.option import PYTHON, Form, Group
from cvmlab.machine.option_rows import BY_NAME
from cvmlab.machine.options import by_keyword, keywords
from cvmlab.memory.journal import JournalFile, Records
from cvmlab.memory.records import Phase
from cvmlab.profiles.architecture import DEFAULT_ARCHITECTURE
from cvmlab.qemu.build import qemu_binary
from cvmlab.qemu.firmware import rom_dirs
from cvmlab.report.text import say_access, say_conversion
from cvmlab.results.callers import NO_CALLERS, Callers
from cvmlab.results.first_exit import first_exit
from cvmlab.results.summary import Resolve, conversions, faults
from cvmlab.vm.process import log_tail
from cvmlab.vm.sync import SyncVm


_LAST_LINES = 10
_FAULTS_SHOWN = 8
_CONVERSIONS_SHOWN = 4
# Budgets and deadlines are the test's own assertions, and a debugger or a console needs a person.
_OF_A_VM = keywords(PYTHON)
# Our init mounts a shared folder, so a guest of ours is booted for it.
_NEEDS_OUR_GUEST = frozenset({"share"})

KNOWN_OPTIONS = keywords(Form.MARK)


class NotThereError(Exception):
    """QEMU or the guest image is not on this machine and cannot be fetched."""


@dataclass(frozen=True, slots=True)
class _Booted:
    vm: SyncVm
    plan: Plan | None  # None without an image: then functions have no names


@final
class BootVm:
    """The ``cvm`` and ``cvm_session`` fixtures: call it to boot a VM, get a SyncVm.

    ``options`` are those of the test's mark; options of the call override them.
    """

    def __init__(
        self, stack: ExitStack, options: Mapping[str, object], *, prefix: str, reuse: bool = False
    ) -> None:
        """Push every VM on *stack*; *prefix* begins their names.

        *reuse* returns a running VM that was booted with the same options.
        """
        self.options = dict(options)
        self._stack = stack
        self.prefix = prefix
        self._reuse = reuse
        self._booted: list[_Booted] = []
        self._by_words: dict[str, SyncVm] = {}

    def __call__(self, **options: Any) -> SyncVm:
        """Boot a VM.  Without ``image`` or ``exec``, options are those of SyncVm.

        With one, they are those of `cvmlab boot`, such as ``exec="uname -r"``.
        """
        asked = {**self.options, **options}
        words = repr(sorted(asked.items()))
        running = self._by_words.get(words)
        if self._reuse and running is not None and running.outcome is None:
            return running
        asked.setdefault("name", f"{self.prefix}{len(self._booted)}")
        made = _made(asked)
        self._booted.append(made)
        self._by_words[words] = vm = self._stack.enter_context(made.vm)
        return vm

    def plan_of(self, vm: SyncVm) -> Plan | None:
        return next(booted.plan for booted in self._booted if booted.vm is vm)

    def adopt(self, vm: SyncVm, source: "BootVm", parent: SyncVm) -> SyncVm:
        """Enter *vm*, a copy of *parent*, which *source* has booted; it ends with the others."""
        self._booted.append(_Booted(vm, source.plan_of(parent)))
        return self._stack.enter_context(vm)

    @property
    def vms(self) -> list[SyncVm]:
        """All VMs that have a run folder, including those that have ended."""
        return [booted.vm for booted in self._booted if booted.vm.started]

    def wrongs(self) -> list[str]:
        """Return what is wrong with the guests' kernels, although no test has looked at it."""
        return [
            f"VM {vm.name}: {told}"
            for booted in self._booted
            if (vm := booted.vm).started
            for told in (_unaware(booted), _trouble(vm))
            if told
        ]

    def explain(self) -> list[tuple[str, str]]:
        """Keep the run folders; return a title and a text for each VM that was started."""
        found = [booted for booted in self._booted if booted.vm.started]
        for booted in found:
            booted.vm.keep_run()
        return [(f"cvmlab: VM {booted.vm.name}", _explained(booted)) for booted in found]


@final
class ForkVm:
    """The ``cvm_forked`` fixture: call it to get a copy of a guest that was booted once."""

    def __init__(self, parents: BootVm, own: BootVm, waiting: dict[SyncVm, str | None]) -> None:
        """*waiting* are the guests of *parents* that stand still, and where copies of them begin."""
        self._parents = parents
        self._own = own
        self._waiting = waiting

    def __call__(self, *, at: str | None = None, **options: Any) -> SyncVm:
        """Return a copy of the session's guest with these *options*, and let it run.

        The first call boots it, waits for *at* on its console, or else for its agent's hello, and
        stops it there for good.
        """
        parent = self._parents(**options)
        if parent not in self._waiting:
            if at is None:
                parent.wait_hello()
            else:
                parent.wait_for(at)
            parent.pause()
            self._waiting[parent] = at
        if self._waiting[parent] != at:
            raise ConfigError(
                f"the guest stands still at {self._waiting[parent] or 'its hello'!r}, not at {at!r}",
                hint="give each test of the class the same at=",
            )
        (copy,) = parent.fork(name=f"{self._own.prefix}{len(self._own.vms)}", keep=False)
        vm = self._own.adopt(copy, self._parents, parent)
        vm.cont()
        return vm


def _made(options: dict[str, Any]) -> _Booted:
    for name in options.keys() - KNOWN_OPTIONS:
        option = by_keyword(name)
        is_judged = option is not None and option.group is Group.VERDICT
        raise ConfigError(
            f"a test's VM has no option {name!r}",
            hint="assert on it in the test" if is_judged else None,
        )
    try:
        if "qemu" not in options:
            asked = options.get("arch", options.get("architecture"))
            row = BY_NAME["arch"].read(asked or DEFAULT_ARCHITECTURE)
            qemu_binary(options.get("qemu_version"), row, build=False)
            rom_dirs(row)
        if options.keys() <= _OF_A_VM - _NEEDS_OUR_GUEST:
            return _Booted(SyncVm(**options), None)
        planned = plan(Request.of(**options), build=False)
    except BuildError as error:
        raise NotThereError(f"{error}: {error.hint}") from error
    except ImageError as error:
        if "kernel" in options:
            raise  # the file exists but is invalid
        raise NotThereError(str(error)) from error
    setting = replace(planned.setting, keep=planned.keep)
    return _Booted(SyncVm(planned.spec, setting=setting, paused=planned.paused), planned)


def _unaware(booted: _Booted) -> str | None:
    """A kernel that still boots may speak yet."""
    vm = booted.vm
    if not vm.spec.restricted or vm.spec.allow_unaware:
        return None
    phase = vm.pages.phase
    if phase < Phase.KERNEL or (phase < Phase.USER and vm.outcome is None):
        return None
    interface = vm.spec.profile.interface
    counts = vm.pages.counters()
    if unaware(interface, weigh(interface, counts, kernel_ran=True, first_exit=None)) is None:
        return None
    records = _records(booted)
    died = None if records is None else first_exit(records, *_naming(booted, records))
    return unaware(interface, weigh(interface, counts, kernel_ran=True, first_exit=died))


def _trouble(vm: SyncVm) -> str | None:
    told = vm.kernel_trouble
    return f"the kernel reports trouble: {told[0]}" if told else None


def _explained(booted: _Booted) -> str:
    vm = booted.vm
    lines = [f"run folder: {vm.run.path}"]
    if vm.spec.restricted:
        lines += _what_happened(booted)
    console = log_tail(vm.run.console_log, _LAST_LINES)
    return "\n".join([*lines, "end of the console:", *console])


def _records(booted: _Booted) -> Records | None:
    """Return the journal; None if there is none, because the VM did not start."""
    try:
        return JournalFile(booted.vm.run.events).records
    except ConfigError:
        return None


def _naming(booted: _Booted, records: Records) -> tuple[Resolve, Callers]:
    """Return what names a function, and who called it: as in a report, the leaf is not blamed."""
    if booted.plan is None:
        return (lambda _: None), NO_CALLERS
    naming = naming_of(booted.plan, booted.vm, records)
    return naming.resolve, naming.callers


def _what_happened(booted: _Booted) -> Sequence[str]:
    records = _records(booted)
    if records is None:
        return ()
    info = booted.vm.last_info
    devices = {} if info is None else info.devices
    naming = _naming(booted, records)
    found = faults(records, devices, *naming, limit=_FAULTS_SHOWN)
    converted = conversions(records, devices, *naming)[:_CONVERSIONS_SHOWN]
    lines = [f"host fault: {fault.device or fault.actor} {say_access(fault)}" for fault in found]
    return [*lines, *(f"converted: {say_conversion(item)}" for item in converted)]
