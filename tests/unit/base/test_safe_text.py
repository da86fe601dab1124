# SPDX-License-Identifier: GPL-2.0-or-later
"""Text of a guest cannot do anything to a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmlab.base.safe_text import SafeStream, safe, safe_line


pytestmark = pytest.mark.fault("V11")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\nand äöü ✓", "plain\ttext\nand äöü ✓"),
        ("\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: loading", "BdsDxe: loading"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]0;title\x1b\\x", "x"),
        ("\x1bPq#0\x1b\\x\x1bc\x1b(0y", "xy"),
        ("\x9b31mred", "red"),
        ("bell\x07, back\x08, nul\0", "bell\\x07, back\\x08, nul\\x00"),
        ("line\r\nnext\rover", "line\nnext\\x0dover"),
        ("half \x1b[31", "half \\x1b[31"),
        ("admin\u202exe.txt", "admin\\u202exe.txt"),
        ("\udcff\x85", "\\xff\\x85"),
    ],
)
def test_sequences_go_and_other_controls_are_shown(text: str, shown: str) -> None:
    assert safe(text) == shown


def test_a_line_stays_one_line() -> None:
    assert safe_line("panic\nFAILED: forged") == "panic\\nFAILED: forged"


HOSTILE = st.text(st.sampled_from("\x1b[]0;2JmP\\\x07\x9b\x9c\x18ab \n"), max_size=40)


@given(HOSTILE)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    left = set(safe(text))
    assert not left & {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))}


@given(st.lists(HOSTILE, max_size=8))
def test_a_stream_in_pieces_is_as_safe_as_in_one(pieces: list[str]) -> None:
    stream = SafeStream()
    shown = "".join([*map(stream.take, pieces), stream.finish()])
    assert "\x1b" not in shown
    assert "\x9b" not in shown


def test_a_sequence_that_is_cut_is_waited_for() -> None:
    stream = SafeStream()
    assert [stream.take(piece) for piece in ("a\x1b", "[3", "1mb\x1b]0;ti", "tle\x07c")] == [
        "a", "", "b", "c",
    ]  # fmt: skip
    assert stream.finish() == ""
