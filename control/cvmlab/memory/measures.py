# SPDX-License-Identifier: GPL-2.0-or-later
"""The one table of what is counted: a row for each measure.  Pure, and free of numpy.

result.json and its schema, the text and HTML reports, the trace, JUnit properties, MQTT messages,
Prometheus, ``query``, ``top``, budgets and baselines list their counts from these rows.  To add a
measure, add a row.  If the plugin counts it, add its counter to plugin/core/rmem.h, too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Final


_EXCEEDED = "budget-exceeded"  # an Outcome of result.json


class Unit(StrEnum):
    """What a count is a number of."""

    PAGES = "pages"
    EVENTS = "events"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRule:
    """Which records of a journal a measure counts.

    *kind* is the word that ``cvmlab events`` prints.  With *changed*, only records that changed
    the state of pages count.  *to* lists the states after the change; empty means any.
    """

    kind: str
    changed: bool = False
    to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetOption:
    """An option of ``cvmlab boot`` that limits one measure, or several measures together.

    *word* comes after ``--max-`` and names the limit in result.json.  *one* and *many* name what
    is counted in a verdict, *limits* in ``--help``.  *outcome* is that of a boot that exceeds it.
    """

    word: str
    one: str
    many: str
    limits: str
    outcome: str = _EXCEEDED

    @property
    def option(self) -> str:
        """The name on the command line: ``--max-faults``."""
        return f"--max-{self.word}"

    @property
    def parameter(self) -> str:
        """The name in Python: ``max_faults``."""
        return f"max_{self.word.replace('-', '_')}"


BUDGET_METAVAR: Final = "N|PHASE=N"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One row.  A count comes from *slot*, from *field* or, if it has neither, from *rule*.

    *name* is the name in result.json, MQTT and Prometheus; *label* heads a column; *one* and
    *many* are for sentences; *help* is one line for the schema and for Prometheus.  *slot* is the
    index of the plugin's counter in the ring's header, *field* the name of another field there.
    A measure that is *per_phase* needs a *rule*: it gets a column, a lane of the HTML timeline and
    one of the trace, an MQTT sum and a count by guest function.  Those appear if there is anything
    to show, or *always*.  *baseline*: a boot that takes more than its baseline fails.  A measure
    that is not per phase is *listed* in the text report unless it is 0.
    """

    name: str
    label: str
    one: str
    many: str
    help: str
    unit: Unit = Unit.EVENTS
    slot: int | None = None
    field: str | None = None
    rule: RecordRule | None = None
    per_phase: bool = False
    always: bool = False
    baseline: bool = False
    listed: bool = True
    budget: BudgetOption | None = None

    @property
    def word(self) -> str:
        """The name in QMP and in vectors: ``to-shared``."""
        return self.name.replace("_", "-")

    @property
    def is_live(self) -> bool:
        """Whether the plugin counts it: then it is known at any time, and never incomplete."""
        return self.slot is not None or self.field is not None

    @property
    def changes_pages(self) -> bool:
        """Whether it counts pages whose state changed."""
        return self.rule is not None and self.rule.changed

    def say(self, count: int) -> str:
        """Return *count* with its noun: ``1 host fault``."""
        return f"{count} {self.one if count == 1 else self.many}"


@dataclass(frozen=True)
class Measures:
    """A table of measures.  Everything that lists counts takes one; MEASURES is the default."""

    rows: tuple[Measure, ...]

    def __iter__(self) -> Iterator[Measure]:
        return iter(self.rows)

    def __getitem__(self, name: str) -> Measure:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, Measure]:
        return {row.name: row for row in self.rows}

    @cached_property
    def live(self) -> tuple[Measure, ...]:
        """Those that the plugin counts."""
        return tuple(row for row in self.rows if row.is_live)

    @cached_property
    def slots(self) -> Mapping[str, int]:
        """The index of each of the plugin's counters in the ring's header, by name."""
        return {row.name: row.slot for row in self.rows if row.slot is not None}

    @cached_property
    def recorded(self) -> tuple[Measure, ...]:
        """Those that only a journal tells."""
        return tuple(row for row in self.rows if not row.is_live)

    @cached_property
    def per_phase(self) -> tuple[Measure, ...]:
        return tuple(row for row in self.rows if row.per_phase)

    @cached_property
    def changes(self) -> tuple[Measure, ...]:
        """Those per phase that count changed pages: guest functions are blamed for them."""
        return tuple(row for row in self.per_phase if row.changes_pages)

    @cached_property
    def baselines(self) -> tuple[Measure, ...]:
        return tuple(row for row in self.rows if row.baseline)

    @cached_property
    def budgets(self) -> tuple[BudgetOption, ...]:
        """The budget options, each once; those whose verdict comes first are first."""
        found = dict.fromkeys(row.budget for row in self.rows if row.budget is not None)
        return tuple(sorted(found, key=lambda budget: budget.outcome == _EXCEEDED))

    def budget(self, word: str) -> BudgetOption:
        """Return the budget option called *word*; raise KeyError."""
        return {budget.word: budget for budget in self.budgets}[word]

    def limited_by(self, budget: BudgetOption) -> tuple[Measure, ...]:
        """Return the measures that *budget* limits together."""
        return tuple(row for row in self.rows if row.budget == budget)

    def shown(self, *counts: Mapping[str, int]) -> tuple[Measure, ...]:
        """Return the measures per phase to show: those always shown, and any not 0 in *counts*."""
        return tuple(
            row
            for row in self.per_phase
            if row.always or any(count.get(row.name) for count in counts)
        )

    def with_rows(self, *rows: Measure) -> "Measures":
        """Return this table with more rows."""
        return replace(self, rows=(*self.rows, *rows))


_ACCEPTS = BudgetOption(
    word="accepts", one="accepted page", many="accepted pages",
    limits="accepted pages",
)  # fmt: skip
_CONVERSIONS = BudgetOption(
    word="conversions", one="converted page", many="converted pages",
    limits="converted pages",
)  # fmt: skip
_FAULTS = BudgetOption(
    word="faults", one="host fault", many="host faults", outcome="host-fault",
    limits="host accesses to private memory",
)  # fmt: skip

MEASURES: Final = Measures((
    Measure(
        name="accepted", label="accepted", one="accepted page", many="accepted pages",
        help="pages accepted", unit=Unit.PAGES, slot=0,
        rule=RecordRule(kind="accept", changed=True),
        per_phase=True, always=True, baseline=True, budget=_ACCEPTS,
    ),
    Measure(
        name="to_shared", label="to shared",
        one="page converted to shared", many="pages converted to shared",
        help="pages converted to shared", unit=Unit.PAGES, slot=1,
        rule=RecordRule(kind="convert", changed=True, to=("shared",)),
        per_phase=True, always=True, baseline=True, budget=_CONVERSIONS,
    ),
    Measure(
        name="to_private", label="to private",
        one="page converted to private", many="pages converted to private",
        help="pages converted to private", unit=Unit.PAGES, slot=2,
        rule=RecordRule(kind="convert", changed=True, to=("pending", "private", "poisoned")),
        per_phase=True, always=True, baseline=True, budget=_CONVERSIONS,
    ),
    Measure(
        name="discarded", label="discarded", one="discarded page", many="discarded pages",
        help="pages discarded", unit=Unit.PAGES, slot=3,
        rule=RecordRule(kind="discard", changed=True),
    ),
    Measure(
        name="poisoned", label="poisoned", one="poisoned page", many="poisoned pages",
        help="pages poisoned", unit=Unit.PAGES, slot=4,
        rule=RecordRule(kind="poison", changed=True),
    ),
    Measure(
        name="loaded", label="loaded",
        one="page of the launch image", many="pages of the launch image",
        help="pages of the launch image", unit=Unit.PAGES, slot=5, listed=False,
        rule=RecordRule(kind="load", changed=True),
    ),
    Measure(
        name="conversions", label="conversions",
        one="conversion request", many="conversion requests",
        help="conversion requests, each of any number of pages", slot=10, listed=False,
    ),
    Measure(
        name="host_faults", label="host faults", one="host fault", many="host faults",
        help="host accesses to private memory that were not allowed, "
        "once per page, actor and direction for as long as the state of that page does not change",
        slot=6, rule=RecordRule(kind="host-fault"),
        per_phase=True, always=True, baseline=True, budget=_FAULTS,
    ),
    Measure(
        name="host_accesses", label="host accesses", one="host access", many="host accesses",
        help="accesses in which the host faults arrived", slot=7, listed=False,
    ),
    Measure(
        name="allowed_accesses", label="allowed accesses",
        one="allowed access", many="allowed accesses",
        help="host accesses to private memory that were allowed because the VM is debuggable, "
        "once per page, actor and direction; no host faults",
        rule=RecordRule(kind="allowed-access"), per_phase=True,
    ),
    Measure(
        name="guest_faults", label="guest faults", one="guest fault", many="guest faults",
        help="guest accesses that ended in a memory fault", slot=9,
        rule=RecordRule(kind="guest-fault"), per_phase=True,
    ),
    Measure(
        name="guest_violations", label="refused requests",
        one="refused request", many="refused requests",
        help="requests of the guest that were refused", slot=8, listed=False,
        rule=RecordRule(kind="violation"),
    ),
    Measure(
        name="resets", label="resets", one="reset", many="resets",
        help="resets of the guest", slot=11, rule=RecordRule(kind="reset"),
    ),
    Measure(
        name="implicit_conversions", label="implicit conversions",
        one="page converted by use", many="pages converted by use",
        help="pages converted by use, without a request", unit=Unit.PAGES, slot=12,
    ),
    Measure(
        name="kernel_calls", label="kernel calls", one="call of the kernel", many="calls of the kernel",
        help="uses of the profile's guest interface by the guest's kernel, from its own addresses",
        slot=13, listed=False,
    ),
    Measure(
        name="early_calls", label="early calls", one="early call", many="early calls",
        help="uses of the profile's guest interface by firmware, boot loaders, and what unpacks a kernel",
        slot=14, listed=False,
    ),
    Measure(
        name="events_dropped", label="dropped events", one="dropped event", many="dropped events",
        help="events lost; if not 0, counts by phase and lists of events are incomplete",
        field="dropped", listed=False,
    ),
))  # fmt: skip
