# SPDX-License-Identifier: GPL-2.0-or-later
"""From a VM that has ended to the Result: what it left is counted, named and judged."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import msgspec
import numpy as np

from cvmlab import __version__
from cvmlab.base.errors import CvmError
from cvmlab.base.safe_text import safe_line
from cvmlab.boot.awareness import hint as awareness_hint
from cvmlab.boot.awareness import unaware, weigh
from cvmlab.boot.naming import Naming
from cvmlab.boot.plan import Plan
from cvmlab.boot.request import Request
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.machine.spec import BootSpec
from cvmlab.memory.journal import JournalFile, Records
from cvmlab.memory.ranges import Slot
from cvmlab.memory.records import RECORD
from cvmlab.memory.records import Phase as PhaseName
from cvmlab.memory.stacks import Windows
from cvmlab.qemu.recipe import build_record
from cvmlab.report.text import CONSOLE_LINES, advice
from cvmlab.results import baselines, blame, budgets, costs, guest_faults, phases, summary
from cvmlab.results.budgets import Ending
from cvmlab.results.counts import Counters
from cvmlab.results.first_exit import first_exit
from cvmlab.results.guest_faults import FaultCase
from cvmlab.results.result import (
    EXIT_CODES,
    Estimate,
    KernelEvidence,
    Outcome,
    PagesByState,
    PhaseResult,
    Qemu,
    RestoredFrom,
    Result,
)
from cvmlab.results.timeline import Names, name_functions
from cvmlab.unwind.modules import LoadedModule
from cvmlab.vm.restoring import Restored
from cvmlab.vm.vm import Vm


_OF_A_KERNEL = (PhaseName.KERNEL.word, PhaseName.USER.word)


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that is over: the document, the console's last lines, what names the journal."""

    result: Result
    console: tuple[str, ...]
    naming: Naming | None = None  # None: it never began
    problems: tuple[str, ...] = ()  # what went wrong beside the guest


@dataclass(frozen=True, slots=True)
class Start:
    """When a run began, on both clocks."""

    wall: datetime
    monotonic_s: float

    @classmethod
    def now(cls) -> "Start":
        return cls(datetime.now(UTC), time.monotonic())


def never_booted(request: Request, error: CvmError) -> Finished:
    """Return the result of a boot that an error kept from starting, or from being judged."""
    # Of the outcomes that share a code, the first is the one that an error stands for.
    outcomes = {code: outcome for outcome, code in reversed(EXIT_CODES.items())}
    default = BootSpec()
    return Finished(
        Result(
            cvmlab=__version__,
            outcome=outcomes.get(error.exit_code, Outcome.DEFECT),
            exit_code=error.exit_code,
            message=error.message,
            hint=error.hint,
            guest=request.title,
            coco=str(request.given.get("coco", default.coco)),
            firmware=str(request.given.get("firmware", default.firmware)),
            memory_bytes=0,
            cpus=0,
            started=Start.now().wall.isoformat(timespec="seconds"),
            duration=0.0,
        ),
        (),
    )


def collect(plan: Plan, vm: Vm, start: Start, ending: Ending, ended_ns: int) -> Finished:
    """Look at everything that the ended VM left, and judge."""
    records = _records(vm, plan)
    counters = _counters(vm, plan, records)
    cut = _phases(records, vm.restored, _end_of(plan, records, ended_ns))
    devices = vm.last_info.devices if vm.last_info is not None else {}
    naming = naming_of(plan, vm, records)
    evidence = blame.Evidence(
        summary.faults(records, devices, naming.resolve, naming.callers),
        summary.functions(records, naming.resolve, naming.callers),
    )
    lines = budgets.measure(plan.budgets, counters, cut)
    spoken = _spoken(plan, counters, cut, naming)
    ending = _explained(_aware(ending, plan, vm, spoken), naming, devices)
    verdict = budgets.judge(ending, lines, evidence.of)
    is_good = verdict.outcome is Outcome.OK
    result = _against_baseline(
        plan,
        vm,
        Result(
            **_what(plan, vm),
            outcome=verdict.outcome,
            exit_code=verdict.exit_code,
            message=safe_line(verdict.message),  # it may have words of the guest in it
            hint=None if is_good else ending.hint,
            pages=_pages(vm, plan),
            counters=counters,
            phases=cut,
            faults=evidence.faults,
            **_told(naming, devices),
            functions=evidence.functions,
            evidence=spoken,
            budgets=lines,
            estimate=_estimate(plan, counters),
            output=vm.command_output.text,
            run_dir=str(vm.run.path) if plan.keep or not is_good else None,
            started=start.wall.isoformat(timespec="seconds"),
            duration=round(time.monotonic() - start.monotonic_s, 3),
        ),
    )
    lines_left = vm.console.last_lines(CONSOLE_LINES)
    return Finished(_advised(result), lines_left, naming)


def _end_of(plan: Plan, records: Records, ended_ns: int) -> int:
    """Return when the guest ended; where instructions are counted, there is no other clock."""
    counts = plan.setting.record is not None or plan.recording is not None
    return int(records["htime_ns"][-1]) if counts and len(records) else ended_ns


def _spoken(
    plan: Plan, counters: Counters, cut: Sequence[PhaseResult], naming: Naming
) -> KernelEvidence | None:
    return weigh(
        plan.spec.profile.interface,
        counters.as_dict(),
        kernel_ran=any(phase.name in _OF_A_KERNEL for phase in cut),
        first_exit=first_exit(naming.records, naming.resolve, naming.callers),
    )


def _advised(result: Result) -> Result:
    """Give a failed boot the advice that fits, so that every output has it."""
    if result.outcome is Outcome.OK or result.hint is not None:
        return result
    return msgspec.structs.replace(result, hint=advice(result))


def _told(naming: Naming, devices: Mapping[int, str]) -> dict[str, Any]:
    """Return the parts of the result that say what the journal tells, and of whom."""
    told = (naming.records, devices, naming.resolve, naming.callers)
    by_function = (naming.records, naming.resolve, naming.callers)
    return {
        "allowed": summary.allowed(*told),
        "conversions": summary.conversions(*told),
        "refused": summary.refused(*by_function),
        "guest_faults": guest_faults.guest_faults(
            *by_function, words=_words(naming.plan), devices=devices
        ),
        "unnamed": naming.problems(),
    }


def _estimate(plan: Plan, counters: Counters) -> Estimate | None:
    return costs.estimate(plan.spec.profile.costs, str(plan.spec.firmware), counters, costs.load())


def _against_baseline(plan: Plan, vm: Vm, result: Result) -> Result:
    """Return *result*, failed if it is good and took more than the plan's baseline."""
    if plan.baseline is None or result.outcome is not Outcome.OK:
        return result
    wrong = list(baselines.regressions(plan.baseline.entry, plan.baseline.tolerance, result))
    if result.counters.events_dropped:
        wrong = ["events were dropped, so counts cannot be compared with the baseline"]
    if not wrong:
        return result
    return msgspec.structs.replace(
        result,
        outcome=Outcome.BUDGET_EXCEEDED,
        exit_code=EXIT_CODES[Outcome.BUDGET_EXCEEDED],
        message="; ".join(wrong),
        hint="if the change is intended, run `cvmlab baseline update`",
        run_dir=str(vm.run.path),
    )


def _what(plan: Plan, vm: Vm) -> dict[str, Any]:
    """Return the part of the result that says what was booted, by what, and what it answered."""
    spec = plan.spec
    return {
        "cvmlab": __version__,
        "guest": plan.title,
        "variant": plan.variant,
        "coco": spec.coco,
        "layout": str(spec.memory_layout) if spec.restricted else None,
        "on_host_access": str(spec.on_host_access) if spec.restricted else None,
        "architecture": spec.architecture.name,
        **{row.option: getattr(spec, row.option) for row in spec.profiles.host_policies},
        "late": vm.last_info is not None and vm.last_info.late,
        "firmware": str(spec.firmware),
        "kernel": vm.kernel_release or plan.release,
        "memory_bytes": spec.memory_bytes,
        "cpus": spec.cpus,
        "qemu": _qemu(vm, plan),
        "restored": _restored_from(vm.restored),
        "command": _command(vm),
        "guest_exit": None if vm.outcome is None else vm.outcome.guest_status,
        "kernel_trouble": vm.kernel_trouble,
    }


def _restored_from(origin: Restored | None) -> RestoredFrom | None:
    if origin is None:
        return None
    return RestoredFrom(
        snapshot=origin.snapshot, saved=origin.saved, record=origin.record, warm=origin.warm
    )


def _phases(records: Records, origin: Restored | None, ended_ns: int) -> tuple[PhaseResult, ...]:
    """Return the phases; a restored VM counts as if it had gone on at once after it was saved."""
    if origin is not None and len(records):
        last = min(int(np.searchsorted(records["seq"], origin.record)), len(records) - 1)
        gap_ns = origin.resumed_ns - int(records["htime_ns"][last])
        records = records.copy()
        times = records["htime_ns"].astype(np.int64)
        times[last + 1 :] -= gap_ns
        records["htime_ns"] = times
        ended_ns -= gap_ns
    return phases.phases(records, end_htime_ns=ended_ns)


def _aware(ending: Ending, plan: Plan, vm: Vm, evidence: KernelEvidence | None) -> Ending:
    """Add whether the guest never spoke, and why; that may explain something else that is wrong."""
    interface = plan.spec.profile.interface
    told = unaware(interface, evidence)
    if interface is None or told is None or plan.spec.allow_unaware:
        return ending
    why = awareness_hint(interface, vm.kernel_release or plan.release, plan.kernel_config())
    if interface.dies_here:
        ending = replace(ending, panic=None, trouble=None, early_use=None, reset=None, timeout=None)
    return replace(ending, unaware=told, hint=ending.hint or why)


def _explained(ending: Ending, naming: Naming, devices: Mapping[int, str]) -> Ending:
    """Add which page an early use was and who changed it, and the function of an address."""
    if ending.early_use is not None:
        words = _words(naming.plan)
        last = partial(
            guest_faults.last_fault, naming.records, naming.resolve, naming.callers,
            words=words, devices=devices,
        )  # fmt: skip
        # Where the profile has words for it, a bad page ends a guest.
        if FaultCase.POISONED in words and (bad := last(of_bad_page=True)):
            ending = replace(ending, early_use=None, stopped=bad)
        else:
            ending = replace(ending, early_use=last() or ending.early_use)
    symbol = None if ending.rip is None else naming.resolve(ending.rip)
    if symbol is None:
        return ending
    return replace(
        ending,
        misuse=ending.misuse and f"{ending.misuse}, in {symbol}",
        triple_fault=ending.triple_fault and f"{ending.triple_fault}, in {symbol}",
    )


def _words(plan: Plan) -> Mapping[str, str]:
    return dict(plan.spec.profile.fault_words)


def _qemu(vm: Vm, plan: Plan) -> Qemu:
    program = plan.setting.qemu if plan.own_qemu else None
    known = {} if program is None else build_record(program.parent.parent) or {}
    return Qemu(
        version=vm.qemu_version,
        patch=known.get("patch_hash") or None,
        tuning=known.get("tuning") or None,
    )


def _command(vm: Vm) -> tuple[str, ...]:
    text = (vm.run.path / "cmdline").read_text("utf-8", "surrogateescape")
    return tuple(shlex.split(text.replace("\\\n", " ")))


def _records(vm: Vm, plan: Plan) -> Records:
    if not plan.spec.restricted:
        return np.empty(0, RECORD)
    return JournalFile(vm.run.events).records


def _pages(vm: Vm, plan: Plan) -> PagesByState:
    if not plan.spec.restricted:
        return PagesByState()
    return PagesByState(**asdict(vm.pages.counts()))


def _counters(vm: Vm, plan: Plan, records: Records) -> Counters:
    """The plugin's own counters, which are exact even if events were dropped, and the journal's."""
    if not plan.spec.restricted:
        return Counters()
    live = vm.pages.counters()
    live["events_dropped"] += vm.journal.unpublished
    return summary.counters(live, records)


def names(naming: Naming, vm: Vm) -> Names:
    """What the journal's numbers stand for, while it can still be told."""
    info = vm.last_info
    return Names(
        devices=info.devices if info is not None else {},
        functions=name_functions(naming.records, naming.resolve),
        chains=dict(naming.callers.chains),
        thin=naming.callers.thin,
        slots=tuple(Slot(part.gpa, part.offset, part.size) for part in vm.pages.slots)
        if vm.spec.restricted
        else (),
    )


class Recorded(Protocol):
    """What a VM has beside its journal, whichever way it is used."""

    @property
    def memory_files(self) -> RestrictedFiles: ...

    @property
    def guest_modules(self) -> tuple[LoadedModule, ...]: ...


def naming_of(plan: Plan, vm: Recorded, records: Records) -> Naming:
    """Return what names the addresses of a VM's journal; its memory files are still open."""
    fd = vm.memory_files.fds.stacks if plan.spec.restricted else None
    numbers = [number for number in np.unique(records["stack"]).tolist() if number]
    windows = Windows.none() if fd is None else Windows.read(fd, numbers)
    return Naming(plan, records, windows, vm.guest_modules)
