# SPDX-License-Identifier: GPL-2.0-or-later
"""From a VM that has ended to the Result: what it left is counted, named and judged."""

import shlex
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

from cvmlab import __version__, baselines, blame, budgets, costs, phases, summary
from cvmlab.bootplan import Plan
from cvmlab.bootrequest import Request
from cvmlab.bootspec import BootSpec
from cvmlab.budgets import Ending
from cvmlab.build import identity
from cvmlab.errors import CvmError
from cvmlab.journal import JournalFile, Records
from cvmlab.records import RECORD
from cvmlab.records import Phase as PhaseName
from cvmlab.replay import Slot
from cvmlab.report import CONSOLE_LINES
from cvmlab.result import EXIT_CODES, Counters, Estimate, Outcome, Pages, Qemu, Result
from cvmlab.symbols import KERNEL_ENTRY, LazySymbols, Symbols
from cvmlab.timeline import Names, name_functions
from cvmlab.vm import Vm


_KERNEL_SPACE = 1 << 63


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that is over: the document, and the console's last lines for the report."""

    result: Result
    console: tuple[str, ...]


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
    outcomes = {code: outcome for outcome, code in EXIT_CODES.items()}
    default = BootSpec()
    return Finished(
        Result(
            cvmlab=__version__,
            outcome=outcomes.get(error.exit_code, Outcome.DEFECT),
            exit_code=error.exit_code,
            message=error.message,
            hint=error.hint,
            guest=request.title,
            coco=request.coco or default.coco,
            firmware=request.firmware or str(default.firmware),
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
    counters = _counters(vm, plan)
    cut = phases.phases(records, end_htime_ns=ended_ns)
    devices = vm.last_info.devices if vm.last_info is not None else {}
    resolve = resolver(plan, records)
    evidence = blame.Evidence(
        summary.faults(records, devices, resolve), summary.functions(records, resolve)
    )
    lines = budgets.measure(plan.budgets, counters, cut)
    verdict = budgets.judge(_explained(ending, records, resolve), lines, evidence.of)
    result = _against_baseline(
        plan,
        vm,
        Result(
            **_what(plan, vm),
            outcome=verdict.outcome,
            exit_code=verdict.exit_code,
            message=verdict.message,
            pages=_pages(vm, plan),
            counters=counters,
            phases=cut,
            faults=evidence.faults,
            conversions=summary.conversions(records, devices, resolve),
            functions=evidence.functions,
            refused=summary.refused(records, resolve),
            budgets=lines,
            estimate=_estimate(plan, counters),
            guest_exit=None if vm.outcome is None else vm.outcome.guest_status,
            command=_command(vm),
            run_dir=str(vm.run.path) if plan.keep or verdict.outcome is not Outcome.OK else None,
            started=start.wall.isoformat(timespec="seconds"),
            duration=round(time.monotonic() - start.monotonic_s, 3),
        ),
    )
    return Finished(result, vm.console.last_lines(CONSOLE_LINES))


def _estimate(plan: Plan, counters: Counters) -> Estimate | None:
    return costs.estimate(plan.spec.coco, str(plan.spec.firmware), counters, costs.load())


def _against_baseline(plan: Plan, vm: Vm, result: Result) -> Result:
    """Return *result*, failed if it is good and took more than the plan's baseline."""
    if plan.baseline is None or result.outcome is not Outcome.OK:
        return result
    wrong = list(baselines.regressions(plan.baseline.entry, plan.baseline.tolerance, result))
    if result.counters.events_dropped:
        wrong = ["events were dropped: nothing can be held against the baseline"]
    if not wrong:
        return result
    return msgspec.structs.replace(
        result,
        outcome=Outcome.BUDGET_EXCEEDED,
        exit_code=EXIT_CODES[Outcome.BUDGET_EXCEEDED],
        message="; ".join(wrong),
        hint="`cvmlab baseline update` if that is meant so",
        run_dir=str(vm.run.path),
    )


def _what(plan: Plan, vm: Vm) -> dict[str, Any]:
    """Return the part of the result that says what was booted, and by what."""
    spec = plan.spec
    return {
        "cvmlab": __version__,
        "guest": plan.title,
        "coco": spec.coco,
        "layout": str(spec.memory_layout) if spec.restricted else None,
        "on_host_access": str(spec.on_host_access) if spec.restricted else None,
        "mapgpa": spec.mapgpa,
        "firmware": str(spec.firmware),
        "kernel": vm.kernel_release or plan.release,
        "memory_bytes": spec.memory_bytes,
        "cpus": spec.cpus,
        "qemu": Qemu(version=vm.qemu_version, patch=_patch_hash(plan)),
    }


def _explained(ending: Ending, records: Records, resolve: summary.Resolve) -> Ending:
    """Add to an early use which page it was: the journal knows."""
    if ending.early_use is None:
        return ending
    return replace(ending, early_use=blame.early_use(records, resolve) or ending.early_use)


def _patch_hash(plan: Plan) -> str | None:
    return identity()["patch_hash"] or None if plan.own_qemu else None


def _command(vm: Vm) -> tuple[str, ...]:
    text = (vm.run.path / "cmdline").read_text(encoding="utf-8")
    return tuple(shlex.split(text.replace("\\\n", " ")))


def _records(vm: Vm, plan: Plan) -> Records:
    if not plan.spec.restricted:
        return np.empty(0, RECORD)
    return JournalFile(vm.run.events).records


def _pages(vm: Vm, plan: Plan) -> Pages:
    if not plan.spec.restricted:
        return Pages()
    counts = vm.pages.counts()
    return Pages(
        pending=counts.pending,
        private=counts.private,
        shared=counts.shared,
        poisoned=counts.poisoned,
    )


def _counters(vm: Vm, plan: Plan) -> Counters:
    """The plugin's own counters, which are exact even if events were dropped."""
    if not plan.spec.restricted:
        return Counters()
    named = {counter.name.lower(): value for counter, value in vm.pages.counters().items()}
    dropped = vm.journal.ring.dropped + vm.journal.unpublished
    return Counters(**named, events_dropped=dropped)


def names(plan: Plan, vm: Vm) -> Names:
    """What the journal's numbers stand for, while it can still be told."""
    records = _records(vm, plan)
    info = vm.last_info
    return Names(
        devices=info.devices if info is not None else {},
        functions=name_functions(records, resolver(plan, records)),
        slots=tuple(Slot(part.gpa, part.offset, part.size) for part in vm.pages.slots)
        if plan.spec.restricted
        else (),
    )


def resolver(plan: Plan, records: Records) -> summary.Resolve:
    """Name functions; with KASLR only if the slide can be told from where the kernel began."""
    symbols: LazySymbols | Symbols = plan.symbols
    if not plan.fixed_addresses:
        entry = phases.first_rip(records, PhaseName.KERNEL)
        loaded = plan.symbols.get() if entry is not None else None
        slide = loaded.infer_slide([entry], KERNEL_ENTRY) if loaded and entry else None
        if loaded is None or slide is None:
            return lambda _address: None
        symbols = loaded.with_slide(slide)
    # The firmware's addresses name nothing of Linux; do not load 160 000 symbols for them.
    lowest = _KERNEL_SPACE if plan.is_linux else 0
    return lambda address: symbols.resolve(address) if address >= lowest else None
