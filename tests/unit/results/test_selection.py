# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of a journal, chosen and asserted on."""

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.results.selection import Selection
from tests.fakes import journals as make


DEVICES = {3: "net0", 4: "disk0"}


@pytest.fixture
def everything() -> Selection:
    return Selection.all_of(make.small(), DEVICES)


@pytest.mark.parametrize(
    ("conditions", "records", "pages"),
    [
        ({"kind": "convert"}, 3, 20),
        ({"kind": "convert", "phase": "kernel"}, 2, 12),
        ({"kind": "convert", "phase": "user"}, 1, 8),
        ({"kind": "host-fault", "device": "net0"}, 1, 1),
        ({"kind": "host-fault", "device": "gpu"}, 0, 0),
        ({"kind": "host-fault", "actor": "device"}, 2, 2),
        ({"kind": "host-fault", "within": "480K+4K"}, 1, 1),
        ({"kind": "convert", "within": "440K+4K"}, 1, 4),
        ({"kind": "convert", "within": "456K+4K"}, 0, 0),
        ({"phase": "launch"}, 0, 0),
    ],
)
def test_conditions_are_all_to_be_met(
    everything: Selection, conditions: dict[str, str], records: int, pages: int
) -> None:
    chosen = everything.where(**conditions)
    assert (len(chosen), chosen.pages) == (records, pages)


def test_conditions_can_be_added_one_after_the_other(everything: Selection) -> None:
    chosen = everything.where(kind="convert").where(phase="user")
    assert (len(chosen), chosen.conditions) == (1, ("kind convert", "phase user"))


@pytest.mark.parametrize("condition", ["kind", "actor", "phase"])
def test_a_word_there_is_not_is_an_error_and_not_an_empty_selection(
    everything: Selection, condition: str
) -> None:
    with pytest.raises(ConfigError, match=f"{condition}: there is no 'convertt'"):
        everything.where(**{condition: "convertt"})


def test_what_was_not_to_be_there_is_shown(everything: Selection) -> None:
    everything.where(kind="poison").assert_empty()
    with pytest.raises(AssertionError) as caught:
        everything.where(kind="host-fault").assert_empty()
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 events (kind host-fault): none was to be there"
    assert "device net0 read private 0x78000: deny" in lines[1]
    assert len(lines) == 3


def test_limits_of_pages_and_records(everything: Selection) -> None:
    converted = everything.where(kind="convert")
    converted.assert_at_most(pages=20, records=3)
    with pytest.raises(AssertionError, match="20 pages, at most 19 were to be"):
        converted.assert_at_most(pages=19)
    with pytest.raises(AssertionError, match="at most 2 were to be there"):
        converted.assert_at_most(records=2)


def test_many_lines_are_cut(everything: Selection) -> None:
    lines = everything.lines(2)
    assert len(lines) == 3
    assert lines[-1].endswith(f"and {len(everything) - 2} more")
