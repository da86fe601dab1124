# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits on what a boot may take, and the verdict on how it ended.  Pure.

Several things can be wrong with one boot.  The exit code tells the one that explains the others,
in this order: Ctrl-C 130, guest panic or triple fault 255, QEMU died or a disk failed 84, misuse of the interface
87, use before acceptance 82, a host fault that stopped the VM 81, trouble of the kernel 255, nothing
booted, a reset or a stop from outside 83, a kernel that never spoke 87, timeout 124, marker never
seen 83, host faults 81, budget exceeded 80, the guest command's own status 1-79.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cvmlab.base.errors import ConfigError
from cvmlab.memory.measures import MEASURES, BudgetOption, Measures
from cvmlab.memory.records import Phase
from cvmlab.results.counts import Counters, Counts
from cvmlab.results.result import EXIT_CODES, BudgetLine, Outcome, PhaseResult


Who = Callable[[BudgetLine], str | None]

GUEST_CODES_END = 80  # a guest's status from here on is reported as the last below


@dataclass(frozen=True, slots=True)
class Budget:
    """At most *limit* of what *option* counts, in one phase or (None) in the whole run."""

    option: BudgetOption
    limit: int
    phase: str | None = None

    @classmethod
    def parse(cls, option: BudgetOption, text: str) -> "Budget":
        """Read ``100`` or ``kernel=100``; raise ConfigError."""
        phase, _, number = text.rpartition("=")
        names = [name.word for name in Phase]
        if "=" in text and phase not in names:
            raise ConfigError(
                f"{option.option}: there is no phase {phase!r}",
                hint=f"phases are {', '.join(names)}",
            )
        if not (number.isascii() and number.isdigit()):
            raise ConfigError(
                f"{option.option}: {number!r} is not a number",
                hint="write a limit such as 100, or a phase and its limit such as kernel=100",
            )
        return cls(option, int(number), phase or None)


def measure(
    budgets: Sequence[Budget],
    counters: Counters,
    phases: Sequence[PhaseResult],
    measures: Measures = MEASURES,
) -> tuple[BudgetLine, ...]:
    """Compare each budget with what was counted.

    Counts of a phase come from events: if any were dropped, no budget of a phase is kept.
    """
    return tuple(_line(budget, counters, phases, measures) for budget in budgets)


def _line(
    budget: Budget, counters: Counters, phases: Sequence[PhaseResult], measures: Measures
) -> BudgetLine:
    rows = measures.limited_by(budget.option)
    counted: list[Counts] = [counters]
    if budget.phase is not None:
        counted = [phase.counters for phase in phases if phase.name == budget.phase]
    measured = sum(counts[row.name] for counts in counted for row in rows)
    return BudgetLine(
        resource=budget.option.word,
        phase=budget.phase,
        limit=budget.limit,
        measured=measured,
        kept=measured <= budget.limit and not (budget.phase and counters.events_dropped),
    )


def describe(line: BudgetLine, measures: Measures = MEASURES) -> str:
    """Say it in a sentence: ``12 converted pages in phase kernel, 10 are allowed``."""
    option = measures.budget(line.resource)
    noun = option.one if line.measured == 1 else option.many
    where = f" in phase {line.phase}" if line.phase else ""
    verb = "is" if line.limit == 1 else "are"
    if not line.kept and line.measured <= line.limit:
        return f"at least {line.measured} {noun}{where}: events were dropped, it may be more"
    return f"{line.measured} {noun}{where}, {line.limit} {verb} allowed"


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known about how a run ended.  Each text names something that is wrong."""

    interrupted: str | None = None
    panic: str | None = None
    triple_fault: str | None = None
    qemu_died: str | None = None
    disk_error: str | None = None  # of the host's, which stopped the VM
    misuse: str | None = None  # the guest broke its interface's rules, and no host could go on
    early_use: str | None = None
    host_stop: str | None = None  # a host access stopped the VM, by the policy
    trouble: str | None = None  # a line of the kernel's log
    not_booted: str | None = None
    reset: str | None = None
    stopped: str | None = None  # from outside
    unaware: str | None = None
    timeout: str | None = None
    marker_missing: str | None = None
    guest_exit: int | None = None  # None: there was no command, or it never answered
    good: str = "the guest booted"  # the message if nothing is wrong
    is_wanted: bool = False  # a panic that was expected: nothing else has to come
    hint: str | None = None  # for whatever is wrong
    rip: int | None = None  # where the guest was when it misused its interface or crashed

    @property
    def is_wrong(self) -> bool:
        """Whether a text names something that is wrong; the command's status is another matter."""
        return any(text is not None for _, text in self.wrongs())

    def wrongs(self) -> tuple[tuple[Outcome, str | None], ...]:
        """Return all texts with their outcomes: what explains the others comes first."""
        return (
            (Outcome.INTERRUPTED, self.interrupted),
            (Outcome.GUEST_PANIC, self.panic),
            (Outcome.TRIPLE_FAULT, self.triple_fault),
            (Outcome.QEMU_DIED, self.qemu_died),
            (Outcome.DISK_ERROR, self.disk_error),
            (Outcome.MISUSE, self.misuse),
            (Outcome.USE_BEFORE_ACCEPTANCE, self.early_use),
            (Outcome.HOST_FAULT, self.host_stop),
            (Outcome.KERNEL_TROUBLE, self.trouble),
            (Outcome.NOT_BOOTED, self.not_booted),
            (Outcome.GUEST_RESET, self.reset),
            (Outcome.STOPPED, self.stopped),
            (Outcome.UNAWARE, self.unaware),
            (Outcome.TIMEOUT, self.timeout),
            (Outcome.MARKER_NOT_SEEN, self.marker_missing),
        )


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict: outcome, exit code, one sentence."""

    outcome: Outcome
    exit_code: int
    message: str


def _nobody(_line: BudgetLine) -> str | None:
    return None


def judge(
    ending: Ending,
    lines: Sequence[BudgetLine],
    who: Who = _nobody,
    measures: Measures = MEASURES,
) -> Judgement:
    """Return the first thing that is wrong, in the documented order; OK if nothing is.

    *who* names what is behind the count of a broken budget, if that is known.
    """
    return next(_wrongs(ending, lines, who, measures), Judgement(Outcome.OK, 0, ending.good))


def _wrongs(
    ending: Ending, lines: Sequence[BudgetLine], who: Who, measures: Measures
) -> Iterator[Judgement]:
    texts = (
        *ending.wrongs(),
        *_broken(lines, who, measures, Outcome.HOST_FAULT),
        *_broken(lines, who, measures, Outcome.BUDGET_EXCEEDED),
    )
    for outcome, text in texts:
        if text is not None:
            yield Judgement(outcome, EXIT_CODES[outcome], text)
    if ending.guest_exit:
        code = min(ending.guest_exit, GUEST_CODES_END - 1)
        message = f"the guest's command ended with status {ending.guest_exit}"
        yield Judgement(Outcome.GUEST_FAILED, code, message)


def _broken(
    lines: Sequence[BudgetLine], who: Who, measures: Measures, outcome: Outcome
) -> Iterator[tuple[Outcome, str]]:
    for line in lines:
        if not line.kept and measures.budget(line.resource).outcome == outcome:
            told, causes = describe(line, measures), who(line)
            yield outcome, f"{told}: {causes}" if causes else told
