# SPDX-License-Identifier: GPL-2.0-or-later
"""What the mark `cvm` of a test asks for."""

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.testing.mark_options import cells, merged


KNOWN = ("coco", "image", "cpus", "memory", "kernel", "disks", "exec")


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({}, ["cvm"]),
        ({"coco": "tdx"}, ["tdx"]),
        ({"image": "debian", "coco": "tdx"}, ["tdx-debian"]),
        ({"coco": ["generic", "tdx"], "image": "debian"}, ["generic-debian", "tdx-debian"]),
        ({"cpus": [1, 4], "coco": "tdx"}, ["tdx-1cpus", "tdx-4cpus"]),
        ({"cpus": [4], "memory": "1G"}, ["cvm"]),
        ({"kernel": ["a/bzImage", "b/bzImage"]}, ["bzImage", "bzImage-2"]),
        ({"exec": ["true", "uname -r"]}, ["true", "uname_-r"]),
    ],
)
def test_a_cell_is_named_after_what_it_boots(options: dict[str, object], ids: list[str]) -> None:
    assert [cell.id for cell in cells(options, KNOWN)] == ids


def test_a_list_is_a_choice_and_a_tuple_is_one_value() -> None:
    found = cells({"coco": ["generic", "tdx"], "cpus": [1, 2], "disks": ("a", "b")}, KNOWN)
    assert [cell.options for cell in found] == [
        {"coco": coco, "cpus": cpus, "disks": ("a", "b")}
        for coco in ("generic", "tdx")
        for cpus in (1, 2)
    ]


def test_the_mark_closest_to_the_test_says_what_counts() -> None:
    assert merged([{"cpus": 2}, {"cpus": 1, "coco": "tdx"}]) == {"cpus": 2, "coco": "tdx"}


def test_an_unknown_option_is_named_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="the mark cvm: there is no 'cpu'") as caught:
        cells({"cpu": 1}, KNOWN)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("did you mean cpus?")


def test_a_choice_of_nothing_is_refused_and_does_not_pass_by_having_no_test() -> None:
    with pytest.raises(ConfigError, match="coco has no value to choose from"):
        cells({"coco": []}, KNOWN)
