# SPDX-License-Identifier: GPL-2.0-or-later
from dataclasses import replace

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.memory.measures import MEASURES, BudgetOption
from cvmlab.results import budgets
from cvmlab.results.budgets import Budget, Ending
from cvmlab.results.counts import Counters, PhaseCounters
from cvmlab.results.result import BudgetLine, Outcome, PhaseResult


FAULTS, CONVERSIONS, ACCEPTS = (
    MEASURES.budget(word) for word in ("faults", "conversions", "accepts")
)


def phase(name: str, **counters: int) -> PhaseResult:
    return PhaseResult(name=name, seconds=1.0, host_seconds=1.0, counters=PhaseCounters(**counters))


COUNTERS = Counters(accepted=100, to_shared=10, to_private=5, host_faults=2)
PHASES = (
    phase("firmware", accepted=40, to_shared=4),
    phase("kernel", accepted=30, to_shared=6, to_private=5, host_faults=2),
    phase("kernel", accepted=30),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", Budget(FAULTS, 0)),
        ("100", Budget(FAULTS, 100)),
        ("kernel=7", Budget(FAULTS, 7, "kernel")),
    ],
)
def test_a_budget_is_a_number_or_a_phase_and_a_number(text: str, expected: Budget) -> None:
    assert Budget.parse(FAULTS, text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--max-accepts: '' is not a number"),
        ("-1", "--max-accepts: '-1' is not a number"),
        ("many", "--max-accepts: 'many' is not a number"),
        ("kernel=", "--max-accepts: '' is not a number"),
        ("1.5", "--max-accepts: '1.5' is not a number"),
        ("²", "--max-accepts: '²' is not a number"),
        ("boot=5", "--max-accepts: there is no phase 'boot'"),
        ("=5", "--max-accepts: there is no phase ''"),
    ],
)
def test_a_bad_budget_is_refused_with_a_hint(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Budget.parse(ACCEPTS, text)
    assert caught.value.message == message
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("budget", "measured", "kept"),
    [
        (Budget(ACCEPTS, 100), 100, True),
        (Budget(ACCEPTS, 99), 100, False),
        (Budget(CONVERSIONS, 15), 15, True),
        (Budget(CONVERSIONS, 14), 15, False),
        (Budget(FAULTS, 1), 2, False),
        (Budget(FAULTS, 0, "firmware"), 0, True),
        (Budget(CONVERSIONS, 10, "kernel"), 11, False),
        (Budget(ACCEPTS, 60, "kernel"), 60, True),
        (Budget(ACCEPTS, 0, "user"), 0, True),
    ],
)
def test_a_budget_is_held_against_the_run_or_all_phases_of_its_name(
    budget: Budget, measured: int, *, kept: bool
) -> None:
    (line,) = budgets.measure([budget], COUNTERS, PHASES)

    assert (line.measured, line.kept) == (measured, kept)


def test_a_broken_budget_is_told_in_a_sentence() -> None:
    (line,) = budgets.measure([Budget(CONVERSIONS, 10, "kernel")], COUNTERS, PHASES)

    assert budgets.describe(line) == "11 converted pages in phase kernel, 10 are allowed"


def test_a_phase_cannot_be_judged_when_events_were_dropped() -> None:
    given = [Budget(ACCEPTS, 60, "kernel"), Budget(ACCEPTS, 100)]

    phase, whole = budgets.measure(given, Counters(accepted=100, events_dropped=1), PHASES)

    assert (phase.kept, whole.kept) == (False, True)
    assert budgets.describe(phase) == (
        "at least 60 accepted pages in phase kernel: events were dropped, it may be more"
    )


def test_one_is_not_said_in_the_plural() -> None:
    line = BudgetLine(resource="faults", phase=None, limit=1, measured=1, kept=True)

    assert budgets.describe(line) == "1 host fault, 1 is allowed"


def broken(option: BudgetOption) -> BudgetLine:
    return BudgetLine(resource=option.word, phase=None, limit=0, measured=1, kept=False)


BROKEN_FAULTS, BROKEN_CONVERSIONS = broken(FAULTS), broken(CONVERSIONS)
EVERYTHING = Ending(
    interrupted="interrupted",
    panic="panic",
    triple_fault="crashed",
    qemu_died="died",
    disk_error="full",
    misuse="misused",
    early_use="early",
    host_stop="stopped",
    trouble="oops",
    not_booted="nothing",
    reset="reset",
    stopped="by hand",
    unaware="silent",
    timeout="late",
    marker_missing="missing",
    guest_exit=5,
)


def test_what_explains_the_rest_comes_first() -> None:
    order = []
    ending = EVERYTHING
    for field in (
        "interrupted", "panic", "triple_fault", "qemu_died", "disk_error", "misuse", "early_use", "host_stop",
        "trouble", "not_booted", "reset", "stopped", "unaware", "timeout", "marker_missing",
    ):  # fmt: skip
        order.append(budgets.judge(ending, [BROKEN_CONVERSIONS, BROKEN_FAULTS]).exit_code)
        ending = replace(ending, **{field: None})  # type: ignore[arg-type]
    order.append(budgets.judge(ending, [BROKEN_CONVERSIONS, BROKEN_FAULTS]).exit_code)
    order.append(budgets.judge(ending, [BROKEN_CONVERSIONS]).exit_code)
    order.append(budgets.judge(ending, []).exit_code)
    order.append(budgets.judge(Ending(), []).exit_code)

    assert order == [
        130, 255, 255, 84, 84, 87, 82, 81, 255, 83, 83, 83, 87, 124, 83, 81, 80, 5, 0,
    ]  # fmt: skip


def test_a_kept_budget_changes_nothing() -> None:
    line = BudgetLine(resource="faults", phase=None, limit=0, measured=0, kept=True)

    assert budgets.judge(Ending(guest_exit=0), [line]).outcome is Outcome.OK


@pytest.mark.parametrize(("status", "code"), [(1, 1), (79, 79), (80, 79), (255, 79)])
def test_the_guests_status_is_passed_through_up_to_79(status: int, code: int) -> None:
    judged = budgets.judge(Ending(guest_exit=status), [])

    assert (judged.outcome, judged.exit_code) == (Outcome.GUEST_FAILED, code)
    assert str(status) in judged.message
