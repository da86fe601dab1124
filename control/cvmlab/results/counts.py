# SPDX-License-Identifier: GPL-2.0-or-later
"""Structures with a field for each row of the table of measures.

msgspec makes them from the rows.  To a type checker they are classes whose fields are numbers: it
does not know the names, which would have to be written down a second time.  Pure.
"""

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import msgspec
from msgspec import Meta, Struct

from cvmlab.memory.measures import MEASURES, Measure, Measures


S = TypeVar("S", bound=Struct)


class Counts(Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers by the name of a measure: an attribute, or an item, for each."""

    if TYPE_CHECKING:

        def __init__(self, **counts: int) -> None: ...
        def __getattr__(self, name: str) -> int: ...

    def __getitem__(self, name: str) -> int:
        return int(getattr(self, name))

    def as_dict(self) -> dict[str, int]:
        return msgspec.structs.asdict(self)


if TYPE_CHECKING:

    class Counters(Counts, frozen=True): ...

    class PhaseCounters(Counts, frozen=True): ...

    class BaselineCounters(Counts, frozen=True): ...


@cache
def counters_type(measures: Measures) -> type["Counters"]:
    """Return the struct of a whole run's counts."""
    doc = "What happened during the run; a reboot of the guest clears none of these."
    return cast("type[Counters]", _counts_type("Counters", doc, measures))


@cache
def phase_counters_type(measures: Measures) -> type["PhaseCounters"]:
    """Return the struct of one phase's counts."""
    doc = "The part of the counters that falls into one phase, from the journal."
    return cast("type[PhaseCounters]", _counts_type("PhaseCounters", doc, measures.per_phase))


@cache
def baseline_counters_type(measures: Measures) -> type["BaselineCounters"]:
    """Return the struct of one phase's counts in a baseline."""
    doc = "The counts of one phase that later boots are compared with."
    return cast("type[BaselineCounters]", _counts_type("BaselineCounters", doc, measures.baselines))


def _counts_type(name: str, doc: str, rows: Iterable[Measure]) -> type[Struct]:
    return msgspec.defstruct(
        name,
        [(row.name, Annotated[int, Meta(ge=0, description=row.help)], 0) for row in rows],
        bases=(Counts,),
        namespace={"__doc__": doc},
        module=__name__,
        frozen=True,
        kw_only=True,
    )


if not TYPE_CHECKING:
    Counters = counters_type(MEASURES)
    PhaseCounters = phase_counters_type(MEASURES)
    BaselineCounters = baseline_counters_type(MEASURES)


def retyped(struct: type[S], **types: Any) -> type[S]:
    """Return *struct* with other types for some of its fields."""
    known = {field.name: field for field in msgspec.structs.fields(struct)}
    fields: list[Any] = []
    for name, kind in types.items():
        old = known[name]
        if isinstance(old.default, Struct):
            fields.append((name, kind, kind()))
        elif old.default_factory is not msgspec.NODEFAULT:
            fields.append((name, kind, msgspec.field(default_factory=old.default_factory)))
        else:
            fields.append((name, kind, msgspec.field(default=old.default)))
    made = msgspec.defstruct(
        struct.__name__,
        fields,
        bases=(struct,),
        namespace={"__doc__": struct.__doc__},
        frozen=True,
        kw_only=True,
    )
    return cast("type[S]", made)
