# SPDX-License-Identifier: GPL-2.0-or-later
"""Sparse files are copied, digested and compressed by their extents."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmlab.snapshots import sparse


PAGE = 4096
PAGES = 64


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def memfd(stack: ExitStack, pages: int = PAGES) -> int:
    fd = os.memfd_create("sparse")
    stack.callback(os.close, fd)
    os.ftruncate(fd, pages * PAGE)
    return fd


def filled(stack: ExitStack, pages: list[int]) -> int:
    fd = memfd(stack)
    for page in pages:
        os.pwrite(fd, bytes([page + 1]) * PAGE, page * PAGE)
    return fd


def content(fd: int) -> bytes:
    return os.pread(fd, PAGES * PAGE, 0)


def test_extents_are_the_parts_with_storage(stack: ExitStack) -> None:
    fd = filled(stack, [0, 1, 5, 63])
    assert list(sparse.extents(fd)) == [(0, 2 * PAGE), (5 * PAGE, PAGE), (63 * PAGE, PAGE)]
    assert list(sparse.extents(memfd(stack))) == []
    assert list(sparse.extents(memfd(stack, 0))) == []


@pytest.mark.timeout(10)
@pytest.mark.parametrize("seen", [0, 1])
def test_a_file_that_is_let_go_of_meanwhile_ends_the_copy(stack: ExitStack, seen: int) -> None:
    """A VM whose QEMU dies puts /dev/null in the place of its memory; that has no end."""
    fd = filled(stack, [0, 5, 9])
    rest = sparse.extents(fd)
    for _ in range(seen):
        next(rest)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, fd)
    os.close(nothing)
    if seen:
        with pytest.raises(OSError, match="became shorter"):
            list(rest)
    else:
        assert list(rest) == []


def test_a_hole_that_is_punched_meanwhile_is_passed_over(
    stack: ExitStack,
) -> None:
    fd = filled(stack, [0, 5, 9])
    found = [next(parts := sparse.extents(fd))]
    sparse._punch(fd, 5 * PAGE, PAGE)
    assert found + list(parts) == [(0, PAGE), (9 * PAGE, PAGE)]


@given(st.lists(st.integers(0, PAGES - 1), unique=True))
def test_a_copy_has_the_content_and_no_storage_more(pages: list[int]) -> None:
    with ExitStack() as stack:
        source, target = filled(stack, pages), memfd(stack)
        assert sparse.copy(source, target) == len(pages) * PAGE
        assert content(target) == content(source)
        assert os.fstat(target).st_blocks == os.fstat(source).st_blocks
        assert sparse.digest(target) == sparse.digest(source)


@given(st.lists(st.integers(0, PAGES - 1), unique=True))
def test_what_is_compressed_comes_back(pages: list[int]) -> None:
    with ExitStack() as stack:
        source, packed, target = filled(stack, pages), memfd(stack, 0), memfd(stack)
        places = sparse.compress(source, packed)
        sparse.decompress(packed, target, places)
        assert content(target) == content(source)
        assert os.fstat(target).st_blocks == os.fstat(source).st_blocks


def test_a_digest_tells_one_place_from_another_and_survives_lost_holes(stack: ExitStack) -> None:
    hole, zeros, here, there = (memfd(stack) for _ in range(4))
    os.pwrite(zeros, bytes(PAGE), 0)
    os.pwrite(here, b"x" * PAGE, 0)
    os.pwrite(there, b"x" * PAGE, 7 * PAGE)
    found = {sparse.digest(fd) for fd in (hole, zeros, here, there, memfd(stack, 1))}
    assert len(found) == 4
    assert sparse.digest(hole) == sparse.digest(zeros)


@given(st.binary(max_size=3 * PAGE), st.integers(0, 3 * PAGE - 1), st.integers(1, 255))
def test_a_digest_tells_each_bit_and_each_byte_of_length(data: bytes, at: int, change: int) -> None:
    def of(content: bytes) -> str:
        with ExitStack() as stack:
            fd = memfd(stack, 0)
            os.pwrite(fd, content, 0)
            return sparse.digest(fd)

    changed = bytearray(data)
    if at < len(data):
        changed[at] ^= change
        assert of(bytes(changed)) != of(data)
    assert len({of(data), of(data + b"\0"), of(data + b"\1")}) == 3


@pytest.mark.parametrize("cut", [0, 1, 20])
def test_a_cut_file_is_said_to_be_short(stack: ExitStack, cut: int) -> None:
    source, packed = filled(stack, [1, 2, 3]), memfd(stack, 0)
    places = sparse.compress(source, packed)
    os.ftruncate(packed, cut)
    with pytest.raises(ValueError, match=r"less content|cannot be decompressed"):
        sparse.decompress(packed, memfd(stack), places)


def test_garbage_and_other_places_are_refused(stack: ExitStack) -> None:
    source, packed = filled(stack, [1, 2, 3]), memfd(stack, 0)
    places = sparse.compress(source, packed)
    with pytest.raises(ValueError, match="more content"):
        sparse.decompress(packed, memfd(stack), [*places[:-1], (0, PAGE)])
    with pytest.raises(ValueError, match="less content"):
        sparse.decompress(packed, memfd(stack), [*places, (10 * PAGE, PAGE)])
    os.pwrite(packed, b"garbage", 0)
    with pytest.raises(ValueError, match="cannot be decompressed"):
        sparse.decompress(packed, memfd(stack), places)


def test_a_hole_that_is_read_stays_a_hole(stack: ExitStack) -> None:
    """As in a guest's memory that is copied while it runs, and punches holes."""
    fd = filled(stack, [1])
    before = os.fstat(fd).st_blocks
    buffer = memoryview(bytearray(PAGES * PAGE))
    assert bytes(sparse._read(fd, 0, PAGES * PAGE, buffer)) == content(fd)
    sparse.digest(fd)
    sparse.copy(fd, memfd(stack))
    assert os.fstat(fd).st_blocks == before


def test_only_what_lies_in_the_ranges_is_copied_and_refreshed(stack: ExitStack) -> None:
    source, target = filled(stack, [0, 1, 5, 9]), memfd(stack)
    assert sparse.copy(source, target, [(PAGE, 5 * PAGE)]) == 2 * PAGE
    assert list(sparse.extents(target)) == [(PAGE, PAGE), (5 * PAGE, PAGE)]
    os.pwrite(target, b"old" * 1000, 7 * PAGE)
    os.pwrite(source, b"new" * 1000, 9 * PAGE)
    assert sparse.refresh(source, target, [(6 * PAGE, 4 * PAGE)]) == PAGE
    assert list(sparse.extents(target)) == [(PAGE, PAGE), (5 * PAGE, PAGE), (9 * PAGE, PAGE)]
    assert content(target)[9 * PAGE :][:3000] == b"new" * 1000
