# SPDX-License-Identifier: GPL-2.0-or-later
"""The cpio writer, read back by a reader of our own and by the real programs."""

import os
import shutil
import stat
import subprocess
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvmlab.base.errors import InvariantError
from cvmlab.images.cpio import CpioEntry, archive, pad
from tests.fakes.cpio_reader import read_archive


_DEADLINE_S = 30
_quickly = settings(max_examples=25, deadline=None)


_names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda name: name not in (".", "..", "TRAILER!!!"))


@st.composite
def _trees(draw: st.DrawFn) -> list[CpioEntry]:
    """Files and symlinks of which none lies under another."""
    paths = draw(st.lists(st.lists(_names, min_size=1, max_size=3).map("/".join), unique=True))
    above = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    return [
        CpioEntry.symlink(path, "target")
        if draw(st.booleans())
        else CpioEntry.file(
            path, draw(st.binary(max_size=9)), draw(st.sampled_from([0o644, 0o755]))
        )
        for path in paths
        if path not in above
    ]


@_quickly
@given(_trees(), st.data())
def test_order_of_entries_does_not_change_a_byte(
    tree: list[CpioEntry], data: st.DataObject
) -> None:
    assert archive(data.draw(st.permutations(tree))) == archive(tree)


@_quickly
@given(_trees())
def test_everything_comes_back_with_its_parents_before_it(tree: list[CpioEntry]) -> None:
    found = read_archive(archive(tree))
    for entry in tree:
        assert (found[entry.path].mode, found[entry.path].data) == (entry.mode, entry.data)
    order = list(found)
    for path in order:
        for parent in map(str, PurePosixPath(path).parents):
            if parent != ".":
                assert order.index(parent) < order.index(path)
                assert stat.S_ISDIR(found[parent].mode)


@_quickly
@given(_trees())
def test_nothing_of_the_host_is_in_the_archive(tree: list[CpioEntry]) -> None:
    found = read_archive(archive(tree))
    assert [item.inode for item in found.values()] == list(range(1, len(found) + 1))
    assert {item.owners for item in found.values()} <= {(0, 0)}
    assert {item.modified for item in found.values()} <= {0}
    assert all(item.links == (2 if stat.S_ISDIR(item.mode) else 1) for item in found.values())


@_quickly
@given(_trees(), _trees())
def test_archives_can_be_joined(first: list[CpioEntry], second: list[CpioEntry]) -> None:
    joined = archive(first) + archive(second)
    assert read_archive(joined[len(archive(first)) :]) == read_archive(archive(second))
    assert len(joined) % 512 == 0


def test_a_device_node_needs_no_root() -> None:
    found = read_archive(archive([CpioEntry.character_device("dev/console", 5, 1)]))
    assert stat.S_ISCHR(found["dev/console"].mode)
    assert found["dev/console"].device == (5, 1)


@pytest.mark.parametrize("length", range(9))
def test_padding_fills_to_the_alignment_and_no_further(length: int) -> None:
    padded = pad(b"x" * length)
    assert len(padded) % 4 == 0
    assert 0 <= len(padded) - length < 4


@pytest.mark.parametrize(
    "path", ["", "/etc", "a//b", "a/", "./a", "..", "a/../b", ".", "TRAILER!!!", "a\0b", "x" * 4096]
)
def test_a_name_that_is_not_plain_is_refused(path: str) -> None:
    with pytest.raises(InvariantError):
        CpioEntry.file(path, b"")


def test_one_name_for_two_entries_is_refused() -> None:
    with pytest.raises(InvariantError, match="two archive entries"):
        archive([CpioEntry.file("a", b"1"), CpioEntry.file("a", b"2")])


def test_a_file_in_a_file_is_refused() -> None:
    with pytest.raises(InvariantError, match="is not a directory"):
        archive([CpioEntry.file("a", b""), CpioEntry.file("a/b", b"")])


_SAMPLE = (
    CpioEntry.file("bin/tool", b"#!/bin/sh\n", 0o755),
    CpioEntry.file("etc/empty", b""),
    CpioEntry.file("etc/näme with space", b"12345"),
    CpioEntry.symlink("bin/alias", "tool"),
    CpioEntry.directory("var/empty", 0o700),
)
_EXTRACTORS = {
    "cpio": ["cpio", "--extract", "--make-directories", "--quiet"],
    "bsdtar": ["bsdtar", "--extract", "--file", "-"],
    "busybox": ["busybox", "cpio", "-i", "-d"],
}


@pytest.mark.parametrize("program", _EXTRACTORS)
def test_real_programs_unpack_what_was_packed(program: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run(
        _EXTRACTORS[program],
        input=archive(_SAMPLE),
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        timeout=_DEADLINE_S,
        check=False,
    )
    complaints = done.stderr if program != "busybox" else b""  # it always says how many blocks
    assert (done.returncode, complaints) == (0, b"")
    for entry in _SAMPLE:
        path = tmp_path / entry.path
        if stat.S_ISLNK(entry.mode):
            assert path.readlink() == Path("tool")
        else:
            assert path.stat().st_mode == entry.mode
        if stat.S_ISREG(entry.mode):
            assert path.read_bytes() == entry.data
