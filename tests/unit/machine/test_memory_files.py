# SPDX-License-Identifier: GPL-2.0-or-later
import fcntl
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.memory.states import Layout
from cvmlab.memory.table import PageCounts


MIB = 1 << 20
F_SEAL_FUTURE_WRITE = 0x10  # Linux; not in fcntl before Python 3.14


@contextmanager
def descriptor_limit(more: int) -> Iterator[None]:
    """Allow *more* descriptors than are open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_split_has_two_files_in_place_one() -> None:
    with RestrictedFiles.create(MIB, layout=Layout.SPLIT, ring_records=64) as files:
        assert len(files.fds.all) == 4
        assert [os.fstat(fd).st_size for fd in files.fds.all] == [MIB, MIB, 4096, 4096 + 64 * 64]
        assert files.storage_bytes() == (0, 0)
        assert not any(os.get_inheritable(fd) for fd in files.fds.all)
        assert files.page_table().counts() == PageCounts(pending=256)
    with RestrictedFiles.create(MIB, layout=Layout.IN_PLACE) as files:
        assert files.fds.shared is None
        assert len(files.fds.all) == 3


def test_storage_is_what_the_files_take() -> None:
    with RestrictedFiles.create(MIB, layout=Layout.SPLIT) as files:
        os.pwrite(files.fds.private, b"x", 8192)
        assert files.storage_bytes() == (4096, 0)


def test_the_table_covers_a_last_odd_page() -> None:
    with RestrictedFiles.create(4097 * 4096, layout=Layout.IN_PLACE) as files:
        assert os.fstat(files.fds.table).st_size == 8192
        assert files.page_table().pages == 4097


@pytest.mark.fault("Q9")
def test_no_file_can_be_truncated_or_sealed_under_a_mapping() -> None:
    with RestrictedFiles.create(MIB, layout=Layout.SPLIT) as files:
        for fd in files.fds.all:
            for size in (0, 2 * MIB * 16):
                with pytest.raises(PermissionError):
                    os.ftruncate(fd, size)
            with pytest.raises(PermissionError):
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE)


@pytest.mark.parametrize("size", [0, -4096, 4095, 4097, MIB + 1])
def test_memory_is_a_multiple_of_a_page(size: int) -> None:
    with pytest.raises(ConfigError) as caught:
        RestrictedFiles.create(size, layout=Layout.IN_PLACE)
    assert caught.value.message == (
        f"guest memory must be a positive multiple of 4K (got {size} bytes)"
    )


@pytest.mark.parametrize("records", [0, 1, 3, 65535, -2])
def test_a_ring_holds_a_power_of_two(records: int) -> None:
    with pytest.raises(ConfigError, match="must hold a power of two of records"):
        RestrictedFiles.create(MIB, layout=Layout.IN_PLACE, ring_records=records)


@pytest.mark.parametrize("room", [0, 1, 2, 3])
def test_running_out_of_descriptors_leaves_none_open(room: int) -> None:
    with descriptor_limit(room), pytest.raises(ConfigError, match="Too many open files") as caught:
        RestrictedFiles.create(MIB, layout=Layout.SPLIT)
    assert "ulimit -n" in str(caught.value.hint)


def test_a_size_that_no_file_can_have_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="guest memory must be at most 64T"):
        RestrictedFiles.create(1 << 63, layout=Layout.SPLIT)


def test_files_are_bound_to_one_vm() -> None:
    with RestrictedFiles.create(MIB, layout=Layout.IN_PLACE) as files:
        files.bind()
        with pytest.raises(ConfigError, match="already bound to a VM"):
            files.bind()


def test_a_second_controller_on_the_same_files_is_refused() -> None:
    with (
        RestrictedFiles.create(MIB, layout=Layout.IN_PLACE) as files,
        RestrictedFiles.of_process(os.getpid(), MIB, files.fds) as same,
    ):
        files.bind()
        with pytest.raises(ConfigError, match="already bound to a VM") as caught:
            same.bind()
        assert "cvmlab ps" in str(caught.value.hint)


def test_files_can_be_bound_again_when_their_vm_is_gone() -> None:
    with RestrictedFiles.create(MIB, layout=Layout.IN_PLACE) as files:
        with RestrictedFiles.of_process(os.getpid(), MIB, files.fds) as first:
            first.bind()
        files.bind()


def test_files_of_a_process_that_is_gone_cannot_be_opened() -> None:
    with (
        RestrictedFiles.create(MIB, layout=Layout.SPLIT) as files,
        pytest.raises(ConfigError, match="cannot be opened"),
    ):
        RestrictedFiles.of_process(2**22 + 1, MIB, files.fds)
