# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits on what a boot may take, and the verdict on how it ended.  Pure.

Several things can be wrong with one boot.  The exit code tells the one that explains the others,
in this order: Ctrl-C 130, guest panic 255, QEMU died 84, timeout 124, marker never seen 83, use before
acceptance 82, host fault 81, budget exceeded 80, the guest command's own status 1-79.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cvmlab.errors import ConfigError
from cvmlab.records import Phase as PhaseName
from cvmlab.result import EXIT_CODES, BudgetLine, Counters, Outcome, Phase, PhaseCounters


Who = Callable[[BudgetLine], str | None]

GUEST_CODES_END = 80  # a guest's status from here on is reported as the last below


class Resource(StrEnum):
    """What can be limited: the word after ``--max-``."""

    FAULTS = "faults"
    CONVERSIONS = "conversions"
    ACCEPTS = "accepts"

    @property
    def outcome(self) -> Outcome:
        return Outcome.HOST_FAULT if self is Resource.FAULTS else Outcome.BUDGET_EXCEEDED


# Both kinds of counters have these fields; conversions are counted in pages, both ways.
_MEASURE: Mapping[Resource, Callable[[Counters | PhaseCounters], int]] = {
    Resource.FAULTS: lambda counters: counters.host_faults,
    Resource.CONVERSIONS: lambda counters: counters.to_shared + counters.to_private,
    Resource.ACCEPTS: lambda counters: counters.accepted,
}
_NOUN: Mapping[Resource, str] = {
    Resource.FAULTS: "host fault",
    Resource.CONVERSIONS: "converted page",
    Resource.ACCEPTS: "accepted page",
}


@dataclass(frozen=True, slots=True)
class Budget:
    """At most *limit* of *resource*, in one phase or (None) in the whole run."""

    resource: Resource
    limit: int
    phase: str | None = None

    @classmethod
    def parse(cls, resource: Resource, text: str) -> "Budget":
        """Read ``100`` or ``kernel=100``; raise ConfigError."""
        phase, _, number = text.rpartition("=")
        names = [name.word for name in PhaseName]
        if "=" in text and phase not in names:
            raise ConfigError(
                f"--max-{resource}: there is no phase {phase!r}",
                hint=f"phases are {', '.join(names)}",
            )
        if not (number.isascii() and number.isdigit()):
            raise ConfigError(
                f"--max-{resource}: {number!r} is not a number",
                hint="write a limit such as 100, or a phase and its limit such as kernel=100",
            )
        return cls(resource, int(number), phase or None)


def measure(
    budgets: Sequence[Budget], counters: Counters, phases: Sequence[Phase]
) -> tuple[BudgetLine, ...]:
    """Hold each budget against what was counted.

    Counts of a phase come from events: if some were dropped, no budget of a phase is kept.
    """
    return tuple(_line(budget, counters, phases) for budget in budgets)


def _line(budget: Budget, counters: Counters, phases: Sequence[Phase]) -> BudgetLine:
    count = _MEASURE[budget.resource]
    if budget.phase is None:
        measured = count(counters)
    else:
        measured = sum(count(phase.counters) for phase in phases if phase.name == budget.phase)
    return BudgetLine(
        resource=budget.resource,
        phase=budget.phase,
        limit=budget.limit,
        measured=measured,
        kept=measured <= budget.limit and not (budget.phase and counters.events_dropped),
    )


def describe(line: BudgetLine) -> str:
    """Say it in a sentence: ``12 converted pages in phase kernel, 10 are allowed``."""
    noun = _NOUN[Resource(line.resource)] + ("s" if line.measured != 1 else "")
    where = f" in phase {line.phase}" if line.phase else ""
    verb = "is" if line.limit == 1 else "are"
    if not line.kept and line.measured <= line.limit:
        return f"at least {line.measured} {noun}{where}: events were dropped, it may be more"
    return f"{line.measured} {noun}{where}, {line.limit} {verb} allowed"


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known about how a run ended.  A text says that something is wrong, and what."""

    interrupted: str | None = None
    panic: str | None = None
    qemu_died: str | None = None
    timeout: str | None = None
    marker_missing: str | None = None
    early_use: str | None = None
    host_stop: str | None = None  # a host access stopped the VM, as the policy has it
    guest_exit: int | None = None  # None: nothing was to be run, or it never answered
    good: str = "the guest booted"  # what to say if nothing is wrong


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict: outcome, exit code, one sentence."""

    outcome: Outcome
    exit_code: int
    message: str


def judge(ending: Ending, lines: Sequence[BudgetLine], who: Who = lambda _line: None) -> Judgement:
    """Return the first thing that is wrong, in the documented order; OK if nothing is.

    *who* says who is behind the count of a broken budget, if that is known.
    """
    return next(_wrongs(ending, lines, who), Judgement(Outcome.OK, 0, ending.good))


def _wrongs(ending: Ending, lines: Sequence[BudgetLine], who: Who) -> Iterator[Judgement]:
    texts = (
        (Outcome.INTERRUPTED, ending.interrupted),
        (Outcome.GUEST_PANIC, ending.panic),
        (Outcome.QEMU_DIED, ending.qemu_died),
        (Outcome.TIMEOUT, ending.timeout),
        (Outcome.MARKER_NOT_SEEN, ending.marker_missing),
        (Outcome.USE_BEFORE_ACCEPTANCE, ending.early_use),
        (Outcome.HOST_FAULT, ending.host_stop),
        *((Outcome.HOST_FAULT, text) for text in _broken(lines, who, Outcome.HOST_FAULT)),
        *((Outcome.BUDGET_EXCEEDED, text) for text in _broken(lines, who, Outcome.BUDGET_EXCEEDED)),
    )
    for outcome, text in texts:
        if text is not None:
            yield Judgement(outcome, EXIT_CODES[outcome], text)
    if ending.guest_exit:
        code = min(ending.guest_exit, GUEST_CODES_END - 1)
        message = f"the guest's command ended with status {ending.guest_exit}"
        yield Judgement(Outcome.GUEST_FAILED, code, message)


def _broken(lines: Sequence[BudgetLine], who: Who, outcome: Outcome) -> list[str]:
    return [
        f"{describe(line)}: {told}" if (told := who(line)) else describe(line)
        for line in lines
        if not line.kept and Resource(line.resource).outcome is outcome
    ]
