# SPDX-License-Identifier: GPL-2.0-or-later
"""Host access really refused: one mapping, userfaultfd, and the limits of both."""

import errno
import mmap
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cvmlab.generations import syscalls
from cvmlab.generations.host.host_view import HostView, Side, supported
from cvmlab.generations.syscalls import PAGE
from tests.unit.generations.touching import Signal, signal_in_child


REASON = supported()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
PAGES = 64
SHARED, PRIVATE = Side.SHARED, Side.PRIVATE


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("view", os.MFD_CLOEXEC)
    os.ftruncate(fd, PAGES * PAGE)
    yield fd
    os.close(fd)


@pytest.fixture(params=Side, ids=lambda side: f"initially-{side}")
def view(request: pytest.FixtureRequest, memfd: int) -> Iterator[HostView]:
    """A view whose pages are all private now, whatever they were at first."""
    with HostView(memfd, PAGES * PAGE, initially=request.param) as view:
        view.convert(0, PAGES, PRIVATE)
        yield view


def error_of(action: Callable[[], object]) -> int | None:
    try:
        action()
    except OSError as error:
        return error.errno
    return None


def vmas(view: HostView) -> int:
    """Count the VMAs that the view is made of; others of this process come and go."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    ranges = ([int(part, 16) for part in line.split()[0].split("-")] for line in lines)
    return sum(low < view.address + view.size and view.address < high for low, high in ranges)


@pytest.mark.parametrize("offset", [0, 1, 3 * PAGE + 77], ids=lambda offset: f"F04-{offset}")
def test_a_load_of_a_private_page_is_sigbus_at_the_exact_byte(memfd: int, offset: int) -> None:
    def prepare() -> int:
        return HostView(memfd, PAGES * PAGE).address

    assert signal_in_child(prepare, offset) == Signal(7, 2, offset)


def test_f38_converting_to_private_takes_the_page_away(memfd: int) -> None:
    def prepare() -> int:
        view = HostView(memfd, PAGES * PAGE)
        view.convert(0, 4, SHARED)
        view.write(0, b"mine")
        view.convert(1, 2, PRIVATE)
        return view.address

    assert signal_in_child(prepare, 0) is None
    assert signal_in_child(prepare, PAGE + 5) == Signal(7, 2, PAGE + 5)


def test_f06_beyond_the_end_of_the_file_is_sigbus(memfd: int) -> None:
    def prepare() -> int:
        return HostView(memfd, 4 * PAGES * PAGE, initially=SHARED).address

    assert signal_in_child(prepare, PAGES * PAGE - 1) is None
    assert signal_in_child(prepare, PAGES * PAGE) == Signal(7, 2, PAGES * PAGE)


def test_f04_system_calls_get_efault(view: HostView) -> None:
    memory = syscalls.as_buffer(view.address, PAGE)
    read_end, write_end = os.pipe()
    zero = os.open("/dev/zero", os.O_RDONLY)
    assert error_of(lambda: os.write(write_end, memory)) == errno.EFAULT
    assert error_of(lambda: os.readv(zero, [memory])) == errno.EFAULT
    assert error_of(lambda: view.read(0, 1)) == errno.EFAULT
    assert error_of(lambda: view.write(0, b"x")) == errno.EFAULT
    view.convert(0, 1, SHARED)
    assert os.write(write_end, memory) == PAGE
    for fd in (read_end, write_end, zero):
        os.close(fd)


def test_f30_contents_stay_in_place(view: HostView, memfd: int) -> None:
    os.pwrite(memfd, b"guest", 5 * PAGE)
    view.convert(5, 6, SHARED)
    assert view.read(5 * PAGE, 5) == b"guest"
    view.write(5 * PAGE, b"host!")
    view.convert(5, 6, PRIVATE)
    assert error_of(lambda: view.read(5 * PAGE, 5)) == errno.EFAULT
    assert os.pread(memfd, 5, 5 * PAGE) == b"host!"


def test_f31_only_the_chosen_pages_change(view: HostView) -> None:
    rng = random.Random(5)
    shared: set[int] = set()
    for _ in range(200):
        start = rng.randrange(PAGES)
        end = rng.randrange(start, PAGES) + 1
        side = rng.choice(list(Side))
        view.convert(start, end, side)
        shared = shared | {*range(start, end)} if side is SHARED else shared - {*range(start, end)}
    for index in range(PAGES):
        expected = None if index in shared else errno.EFAULT
        assert error_of(lambda at=index: view.read(at * PAGE, 1)) == expected  # type: ignore[misc]


def test_a_scattered_set_is_converted_as_one(view: HostView) -> None:
    odd = [(index, index + 1) for index in range(1, PAGES, 2)]
    view.convert_many(odd, SHARED)
    assert [view.read(start * PAGE, 1) for start, _ in odd] == [b"\0"] * len(odd)
    assert error_of(lambda: view.read(0, 1)) == errno.EFAULT
    view.convert_many([(0, PAGES)], SHARED)  # meets pages that are mapped already
    view.convert_many(odd, PRIVATE)
    assert [error_of(lambda at=at: view.read(at * PAGE, 1)) for at in range(4)] == [  # type: ignore[misc]
        None,
        errno.EFAULT,
        None,
        errno.EFAULT,
    ]


def test_more_runs_than_one_call_takes() -> None:
    pages = 6000
    fd = os.memfd_create("large", os.MFD_CLOEXEC)
    os.ftruncate(fd, pages * PAGE)
    with HostView(fd, pages * PAGE) as view:
        even = [(index, index + 1) for index in range(0, pages, 2)]
        view.convert(0, pages, SHARED)
        before = vmas(view)
        view.convert_many(even, PRIVATE)
        assert vmas(view) == before
        assert error_of(lambda: view.read((pages - 2) * PAGE, 1)) == errno.EFAULT
        assert view.read((pages - 1) * PAGE, 1) == b"\0"
    os.close(fd)


def test_the_number_of_vmas_does_not_grow(view: HostView) -> None:
    before = vmas(view)
    for index in range(0, PAGES, 2):
        view.convert(index, index + 1, SHARED)
    assert vmas(view) == before


def test_f34_punching_keeps_each_page_what_it_was(memfd: int, view: HostView) -> None:
    view.convert(0, 2, SHARED)
    view.write(0, b"old")
    syscalls.fallocate(memfd, 3, 0, 4 * PAGE)
    view.punched(0, 2, SHARED)
    view.punched(2, 4, PRIVATE)
    assert view.read(0, 3) == bytes(3)
    assert error_of(lambda: view.read(2 * PAGE, 1)) == errno.EFAULT


def test_f05_a_page_the_guest_filled_is_seen_by_the_host(memfd: int) -> None:
    with HostView(memfd, PAGES * PAGE, initially=SHARED) as view:
        os.pwrite(memfd, b"guest", 3 * PAGE)
        assert view.read(3 * PAGE, 5) == b"guest"
        assert os.fstat(memfd).st_blocks == 8


def test_a_chunk_is_populated_when_its_first_page_becomes_private() -> None:
    fd = os.memfd_create("chunks", os.MFD_CLOEXEC)
    os.ftruncate(fd, 4 << 20)
    with HostView(fd, 4 << 20, initially=SHARED) as view:
        view.convert(7, 8, PRIVATE)
        assert os.fstat(fd).st_blocks * 512 <= 2 << 20
        os.pwrite(fd, b"late", 9 * PAGE)
        assert view.read(9 * PAGE, 4) == b"late"
        assert error_of(lambda: view.read(7 * PAGE, 1)) == errno.EFAULT
    os.close(fd)


def test_f10_a_private_page_cannot_be_pinned_and_a_pinned_one_not_made_private(
    view: HostView,
) -> None:
    assert error_of(lambda: view.pin(3, 4, "vmsplice")) == errno.EFAULT
    view.convert(2, 8, SHARED)
    pin = view.pin(3, 5, "vmsplice")
    with pytest.raises(OSError, match="page 0x3 is pinned by vmsplice") as caught:
        view.convert(0, 8, PRIVATE)
    assert caught.value.errno == errno.EAGAIN
    assert view.read(2 * PAGE, 1) == b"\0"
    view.pins.unpin(pin)
    view.convert(0, 8, PRIVATE)
    assert error_of(lambda: view.read(3 * PAGE, 1)) == errno.EFAULT


def test_f09_locked_pages_convert_too(view: HostView) -> None:
    view.convert(0, 4, SHARED)
    syscalls.lock(view.address, 4 * PAGE)
    view.convert(1, 2, PRIVATE)
    assert error_of(lambda: view.read(PAGE, 1)) == errno.EFAULT
    syscalls.unlock(view.address, 4 * PAGE)


def test_f35_a_child_has_no_mapping_at_all(memfd: int) -> None:
    """Limit: userfaultfd is not inherited, so that a child would see everything."""
    with HostView(memfd, PAGES * PAGE) as view:
        view.convert(0, 1, SHARED)
        address = view.address
        child = os.fork()
        if child == 0:
            status = 0
            try:
                syscalls.read_memory(address, 1)
            except OSError as error:
                status = error.errno or 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.EFAULT


def test_limit_a_second_mapping_and_pread_go_past_the_view(memfd: int, view: HostView) -> None:
    os.pwrite(memfd, b"secret", 0)
    assert error_of(lambda: view.read(0, 6)) == errno.EFAULT
    with mmap.mmap(memfd, PAGE) as second:
        assert second[:6] == b"secret"
    assert os.pread(memfd, 6, 0) == b"secret"


def test_limit_a_pin_of_the_kernel_stays_with_the_page(memfd: int, view: HostView) -> None:
    """What vmsplice() took before a conversion still shows what is written after it."""
    view.convert(0, 1, SHARED)
    view.write(0, b"before")
    read_end, write_end = os.pipe()
    assert syscalls.vmsplice(write_end, view.address, 6) == 6
    view.convert(0, 1, PRIVATE)
    os.pwrite(memfd, b"after!", 0)
    assert os.read(read_end, 6) == b"after!"
    os.close(read_end)
    os.close(write_end)


def test_it_needs_no_privilege() -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            fd = os.memfd_create("own")
            os.ftruncate(fd, PAGE)
            with HostView(fd, PAGE) as view:
                refused = error_of(lambda: view.read(0, 1)) == errno.EFAULT
                view.convert(0, 1, SHARED)
                status = 0 if refused and view.read(0, 1) == b"\0" else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
