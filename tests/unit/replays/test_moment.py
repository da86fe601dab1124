# SPDX-License-Identifier: GPL-2.0-or-later
import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.replays.moment import Moment, parse_moment


FUNCTIONS = {"set_memory_decrypted": 0xFFFFFFFF81080000}


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("convert 0x1234000", {"event": "convert", "gpa": 0x1234000}),
        ("convert 16M", {"event": "convert", "gpa": 16 << 20}),
        ("accept", {"event": "accept"}),
        ("fault", {"event": "fault"}),
        ("record 812", {"record": 812}),
        ("0xffffffff81000000", {"pc": 0xFFFFFFFF81000000}),
        ("set_memory_decrypted", {"pc": FUNCTIONS["set_memory_decrypted"]}),
    ],
)
def test_a_moment_is_an_event_a_record_or_an_instruction(
    text: str, arguments: dict[str, object]
) -> None:
    assert parse_moment(text, FUNCTIONS.get).arguments() == arguments


@pytest.mark.parametrize(
    "text",
    [
        "",
        "convert 1 2",
        "record",
        "record x",
        "record 0",
        "convert here",
        "12",
        "no_such_function",
        "-",
    ],
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_moment(text, FUNCTIONS.get)


def test_gpa_0_is_a_page_as_well() -> None:
    assert Moment("fault 0", event="fault", gpa=0).arguments() == {"event": "fault", "gpa": 0}
