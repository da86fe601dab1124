# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules against the hand-written vectors, and the model that applies them."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from cvmlab.base.errors import ConfigError, InvariantError
from cvmlab.base.resources import first_with_plugin, plugin_dir
from cvmlab.memory.states import (
    LAUNCH_FLAG,
    Change,
    Event,
    Model,
    PageState,
    RefusalCode,
    RefusedChange,
    Rule,
    Rules,
    parse_rules,
    profiles,
)
from tests.vectors.bad_rules import BAD_RULES
from tests.vectors.reader import Vector, layouts, transition_vectors


GENERIC, SPLIT = profiles()["generic"], profiles()["sw-protected"]


def page_in(state: PageState, rules: Rules) -> Model:
    model = Model(rules, 1)
    model.table[0] = state
    return model


def holds(vector: Vector, rules: Mapping[str, Rules]) -> bool:
    model = page_in(vector.state, rules[vector.profile])
    answer = model.apply(0, 1, vector.event)
    if vector.refusal is RefusalCode.OK:
        expected: object = (Change(0, 1, vector.state, vector.after),)
    else:
        expected = RefusedChange(vector.refusal, 0)
    return (answer, model.table[0] & 3, model.counters, model.generation) == (
        expected,
        vector.after,
        vector.counters,
        vector.takes_access,
    )


@pytest.mark.parametrize("vector", transition_vectors(), ids=lambda vector: vector.name)
def test_each_cell_is_what_its_vector_says(vector: Vector) -> None:
    assert holds(vector, profiles())


def test_every_cell_has_one_vector() -> None:
    written = [(vector.profile, vector.event, vector.state) for vector in transition_vectors()]
    cells = [(name, event, state) for name in profiles() for event in Event for state in PageState]
    assert sorted(written) == sorted(cells)


def test_layouts_are_those_of_the_vectors() -> None:
    assert {name: str(rules.layout) for name, rules in profiles().items()} == layouts()


def with_cell(rules: Rules, event: Event, state: PageState, rule: Rule) -> Rules:
    rows = [list(row) for row in rules.cells]
    rows[event][state] = rule
    return replace(rules, cells=tuple(map(tuple, rows)))


def other_rules(rule: Rule, state: PageState) -> list[Rule]:
    refusals = (RefusalCode.ALREADY_ACCEPTED, RefusalCode.NOT_PRIVATE, RefusalCode.PAGE_POISONED)
    every = [Rule(after) for after in PageState] + [Rule(state, why) for why in refusals]
    return [other for other in every if other != rule]


@pytest.mark.parametrize("profile", profiles())
def test_no_cell_can_change_without_a_vector_noticing(profile: str) -> None:
    rules = profiles()[profile]
    vectors = [vector for vector in transition_vectors() if vector.profile == profile]
    survivors = [
        (event.word, state.word, other)
        for event in Event
        for state in PageState
        for other in other_rules(rules.judge(state, event), state)
        if all(
            holds(vector, {profile: with_cell(rules, event, state, other)}) for vector in vectors
        )
    ]
    assert survivors == []


@pytest.mark.parametrize(("text", "message"), BAD_RULES)
def test_rules_that_are_none_are_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rules(text)
    assert caught.value.message == message


def test_rules_that_are_no_toml_are_refused_with_the_place() -> None:
    with pytest.raises(ConfigError, match="line 2, column"):
        parse_rules("[default]\ntouch = ?\n")


def test_words_and_members_are_each_others_inverse() -> None:
    assert Event.TO_SHARED.word == "to-shared"
    for closed_set in (PageState, Event, RefusalCode):
        assert [closed_set.of(member.word) for member in closed_set] == list(closed_set)
    with pytest.raises(KeyError):
        PageState.of("encrypted")


def test_a_refusal_anywhere_in_the_range_changes_nothing() -> None:
    model = Model(SPLIT, 8)
    model.apply(5, 1, Event.POISON)
    before = (model.table.copy(), dict(model.counters), model.generation)
    assert model.apply(2, 6, Event.TO_SHARED) == RefusedChange(RefusalCode.PAGE_POISONED, 5)
    assert (model.table == before[0]).all()
    assert (model.counters, model.generation) == before[1:]


@pytest.mark.parametrize(
    ("first", "count", "page"), [(0, 9, 8), (8, 1, 8), (9, 0, 9), (7, 2, 8), (1 << 63, 1, 1 << 63)]
)
def test_pages_beyond_the_table_are_out_of_range(first: int, count: int, page: int) -> None:
    assert Model(SPLIT, 8).check(first, count, Event.POISON) == RefusedChange(
        RefusalCode.OUT_OF_RANGE, page
    )


@pytest.mark.parametrize("first", [0, 4, 8])
def test_an_empty_range_in_the_table_is_legal_and_changes_nothing(first: int) -> None:
    assert Model(SPLIT, 8).apply(first, 0, Event.POISON) == ()


def test_changes_come_as_runs_of_equal_old_state() -> None:
    model = Model(SPLIT, 8)
    model.apply(2, 3, Event.ACCEPT)
    assert model.apply(0, 8, Event.TO_SHARED) == (
        Change(0, 2, PageState.PENDING, PageState.SHARED),
        Change(2, 3, PageState.PRIVATE, PageState.SHARED),
        Change(5, 3, PageState.PENDING, PageState.SHARED),
    )
    assert model.counters["to_shared"] == 8
    assert model.generation == 3


def test_pages_that_stay_are_reported_but_not_counted() -> None:
    model = Model(SPLIT, 2)
    model.apply(0, 1, Event.TO_SHARED)
    assert len(model.apply(0, 2, Event.TO_SHARED)) == 2  # type: ignore[arg-type]
    assert model.counters["to_shared"] == 2


def test_the_launch_flag_comes_with_loading_and_goes_with_the_next_change() -> None:
    model = Model(GENERIC, 2)
    model.touch(0)
    model.apply(0, 2, Event.LOAD)
    assert model.table.tolist() == [PageState.PRIVATE | LAUNCH_FLAG] * 2
    assert model.counters["loaded"] == 1
    model.touch(0)
    model.apply(1, 1, Event.TO_SHARED)
    assert model.table.tolist() == [PageState.PRIVATE | LAUNCH_FLAG, PageState.SHARED]


@pytest.mark.parametrize("state", PageState)
def test_touch_returns_what_it_found(state: PageState) -> None:
    model = page_in(state, GENERIC)
    assert model.touch(0) is state
    accepted = state is PageState.PENDING
    assert model.counters["accepted"] == accepted
    assert model.page_counts[PageState.PRIVATE if accepted else state] == 1


def test_touch_of_a_pending_page_changes_nothing_if_the_rules_refuse_it() -> None:
    refusing = Rule(PageState.PENDING, RefusalCode.NOT_PRIVATE)
    model = Model(with_cell(GENERIC, Event.TOUCH, PageState.PENDING, refusing), 1)
    assert model.touch(0) is PageState.PENDING
    assert model.table[0] == PageState.PENDING


def test_reset_makes_every_page_pending_and_keeps_the_counters() -> None:
    model = Model(SPLIT, 4)
    model.apply(0, 4, Event.LOAD)
    model.reset()
    assert not model.table.any()
    assert (model.counters["loaded"], model.counters["resets"]) == (4, 1)
    assert model.generation == 1


def test_the_plugin_is_found_where_its_rules_are() -> None:
    assert (plugin_dir() / "core" / "rmem.h").is_file()
    missing = plugin_dir() / "core"
    assert first_with_plugin([missing, plugin_dir()]) == plugin_dir()
    with pytest.raises(InvariantError, match="plugin's sources are not in"):
        first_with_plugin([missing])
