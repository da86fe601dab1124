# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs of a test: booted by a fixture, ended by it, and explained when the test fails."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, final

from cvmlab.bootjudge import resolver
from cvmlab.bootplan import Plan, plan
from cvmlab.bootrequest import Request
from cvmlab.build import qemu_binary
from cvmlab.errors import BuildError, ConfigError, ImageError
from cvmlab.firmware import rom_dirs
from cvmlab.journal import JournalFile
from cvmlab.launch import Setting
from cvmlab.options import OPTIONS
from cvmlab.process import log_tail
from cvmlab.report import say_conversion, say_fault
from cvmlab.summary import conversions, faults
from cvmlab.sync import SyncVm


_LAST_LINES = 10
_FAULTS_SHOWN = 8
_CONVERSIONS_SHOWN = 4
# Budgets and deadlines are the test's own assertions, and a debugger needs a person.
_NOT_FOR_TESTS = frozenset(
    {"expect", "timeout_s", "max_faults", "max_conversions", "max_accepts", "gdb"}
)
_VM_OPTIONS = frozenset({*OPTIONS, "memory", "paused", *(item.name for item in fields(Setting))})
_PATHS = frozenset({"kernel", "initrd", "symbols", "qemu", "run_dir"})
_REQUEST_OPTIONS = frozenset(item.name for item in fields(Request)) - _NOT_FOR_TESTS

KNOWN_OPTIONS = _VM_OPTIONS | _REQUEST_OPTIONS


class NotThereError(Exception):
    """QEMU or the guest image is not on this machine and cannot be fetched: nobody's mistake."""


@dataclass(frozen=True, slots=True)
class _Booted:
    vm: SyncVm
    plan: Plan | None  # None without an image: then functions have no names


@final
class BootVm:
    """The ``cvm`` and ``cvm_session`` fixtures: call it to boot a VM, get a SyncVm.

    ``options`` is what the test's mark says; what is given in the call goes before it.
    """

    def __init__(
        self, stack: ExitStack, options: Mapping[str, object], *, prefix: str, reuse: bool = False
    ) -> None:
        """Push every VM on *stack*, name them after *prefix*.

        *reuse*: return the VM that runs already, if one was asked for in the same words.
        """
        self.options = dict(options)
        self._stack = stack
        self._prefix = prefix
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
        asked.setdefault("name", f"{self._prefix}{len(self._booted)}")
        made = _made(asked)
        self._booted.append(made)
        self._by_words[words] = vm = self._stack.enter_context(made.vm)
        return vm

    @property
    def vms(self) -> list[SyncVm]:
        """All VMs that have a run folder, those that have ended among them."""
        return [booted.vm for booted in self._booted if booted.vm.started]

    def explain(self) -> list[tuple[str, str]]:
        """Keep the run folders; return a title and a text for each VM that was started."""
        found = [booted for booted in self._booted if booted.vm.started]
        for booted in found:
            booted.vm.keep_run()
        return [(f"cvmlab: VM {booted.vm.name}", _explained(booted)) for booted in found]


def _made(options: dict[str, Any]) -> _Booted:
    for name in options:
        if name not in KNOWN_OPTIONS:
            hint = "assert on it in the test" if name in _NOT_FOR_TESTS else None
            raise ConfigError(f"a test's VM has no option {name!r}", hint=hint)
    try:
        if "qemu" not in options:
            qemu_binary(build=False)
            rom_dirs()
        if options.keys() <= _VM_OPTIONS and "exec" not in options:
            return _Booted(SyncVm(**options), None)
        planned = plan(_request(options), build=False)
    except BuildError as error:
        raise NotThereError(f"{error}: {error.hint}") from error
    except ImageError as error:
        if "kernel" in options:
            raise  # the file is there, and is not what it should be
        raise NotThereError(str(error)) from error
    return _Booted(
        SyncVm(planned.spec, setting=replace(planned.setting, keep=planned.keep)), planned
    )


def _request(options: Mapping[str, Any]) -> Request:
    """Read paths as people write them."""
    read: dict[str, Any] = {
        name: Path(value) for name, value in options.items() if name in _PATHS and value
    }
    if "disks" in options:
        read["disks"] = tuple(Path(disk) for disk in options["disks"])
    return Request(**{**options, **read})


def _explained(booted: _Booted) -> str:
    vm = booted.vm
    lines = [f"run folder: {vm.run.path}"]
    if vm.spec.restricted:
        lines += _what_happened(booted)
    console = log_tail(vm.run.console_log, _LAST_LINES)
    return "\n".join([*lines, "end of the console:", *console])


def _what_happened(booted: _Booted) -> Sequence[str]:
    try:
        records = JournalFile(booted.vm.run.events).records
    except ConfigError:
        return ()  # it never came to a journal
    info = booted.vm.last_info
    devices = {} if info is None else info.devices
    resolve = (lambda _: None) if booted.plan is None else resolver(booted.plan, records)
    found = faults(records, devices, resolve, limit=_FAULTS_SHOWN)
    converted = conversions(records, devices, resolve)[:_CONVERSIONS_SHOWN]
    lines = [f"host fault: {fault.device or fault.actor} {say_fault(fault)}" for fault in found]
    return [*lines, *(f"converted: {say_conversion(item)}" for item in converted)]
