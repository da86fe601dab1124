# SPDX-License-Identifier: GPL-2.0-or-later
"""The series of patches: which of them a version takes, and what is said of those that do not fit."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from cvmlab.base.errors import BuildError
from cvmlab.base.steps import Steps
from cvmlab.qemu.series import apply, numbers, patches, patches_for, series_dir, series_of
from cvmlab.qemu.versions import VERSIONS
from tests.fakes.debian_archive import write_tree


HUNK = """--- a/{file}
+++ b/{file}
@@ -{line},1 +{line},1 @@
-{old}
+{new}
"""


def series_in(folder: Path, names: Mapping[str, str]) -> Path:
    write_tree(folder, {name: text.encode() for name, text in names.items()})
    return folder


@pytest.mark.parametrize(
    ("version", "taken"),
    [
        ("10.0.13", ["0001-a.patch", "0002-b.patch", "0003-c.patch"]),
        ("10.2.2", ["0001-a.patch", "10.2/0002-b.patch", "0003-c.patch"]),
        ("11.0.0", ["0001-a.patch", "10.2/0002-b.patch", "0003-c.patch"]),
        ("11.1.1", ["0001-a.patch", "11.1/0002-b.patch", "11.1/0003-other.patch"]),
        ("11.10.0", ["0001-a.patch", "11.1/0002-b.patch", "11.1/0003-other.patch"]),
    ],
)
def test_a_folder_replaces_patches_from_its_version_on(
    tmp_path: Path, version: str, taken: list[str]
) -> None:
    names = ["0001-a.patch", "0002-b.patch", "0003-c.patch", "10.2/0002-b.patch"]
    names += ["11.1/0002-b.patch", "11.1/0003-other.patch", "README.md"]
    folder = series_in(tmp_path, dict.fromkeys(names, ""))
    found = [str(path.relative_to(folder)) for path in patches_for(version, folder)]
    assert found == taken


def test_numbers_are_compared_as_numbers() -> None:
    assert numbers("10.0.13") < numbers("10.2.2") < numbers("11.1.1-rc2") < numbers("11.10.0")
    assert series_of("10.0.13") == "10.0"


@pytest.mark.parametrize("version", [f"{version.name}.1" for version in VERSIONS])
def test_every_version_takes_the_same_numbers(version: str) -> None:
    taken = [int(path.name.partition("-")[0]) for path in patches_for(version, series_dir())]
    assert taken == list(range(1, len(taken) + 1))


def test_a_patch_that_replaces_another_keeps_its_name() -> None:
    folder = series_dir()
    first = {name.name for name in patches(folder) if len(name.parts) == 1}
    assert {name.name for name in patches(folder)} == first


def test_every_hunk_that_does_not_fit_is_listed(tmp_path: Path) -> None:
    tree, folder = tmp_path / "tree", tmp_path / "patches"
    write_tree(tree, {"a.c": b"one\ntwo\n", "b.c": b"three\n"})
    names = {
        "0001-fits.patch": HUNK.format(file="a.c", line=1, old="one", new="ONE"),
        "0002-does-not.patch": HUNK.format(file="a.c", line=2, old="four", new="FOUR")
        + HUNK.format(file="b.c", line=1, old="five", new="FIVE"),
        "0003-does-not.patch": HUNK.format(file="b.c", line=1, old="six", new="SIX"),
    }
    series = patches_for("10.0.1", series_in(folder, names))
    assert apply(series, tree, Steps(log=tmp_path / "log")) == [
        "0002-does-not.patch: a.c:2",
        "0002-does-not.patch: b.c:1",
        "0003-does-not.patch: b.c:1",
    ]
    assert (tree / "a.c").read_text() == "ONE\ntwo\n"


def test_a_file_that_is_no_patch_is_an_error_of_its_own(tmp_path: Path) -> None:
    folder = series_in(tmp_path / "patches", {"0001-garbage.patch": "nothing\n"})
    with pytest.raises(BuildError, match=r"applying 0001-garbage\.patch failed"):
        apply(patches_for("10.0.1", folder), tmp_path, Steps(log=tmp_path / "log"))
