# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock kernels as TDX guests: by SeaBIOS and by TDVF, attested by a service that fakes it."""

import asyncio
import hashlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmlab.build import ovmf
from cvmlab.images import resolve
from cvmlab.quotes import quote_service
from tests.guest.plain_boot import Booted, boot
from tests.guest.program import cvmlab


pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("state_home")]

LOOK = "dmesg | grep -E 'tdx: Guest|Encryption Features|SWIOTLB|smp: Brought|Unexpected'"
DISK_BYTES = 4 << 20


def td(options: str = "", *extra: str) -> tuple[str, ...]:
    """Return QEMU's options for a TD in plain_boot's machine."""
    guest = options if options.startswith("{") else f"tdx-guest,id=tdx0{options}"
    return (
        *("-object", guest, "-object", "memory-backend-restricted,id=ram0,size=1G,profile=tdx"),
        *("-machine", "memory-backend=ram0,confidential-guest-support=tdx0", *extra),
    )


def assert_is_td(booted: Booted) -> None:
    for line in ("tdx: Guest detected", "Memory Encryption Features active: Intel TDX"):
        assert line in booted.console
    assert "Unexpected" not in booted.console
    assert booted.channel[-1] == "cvmlab exit 0"


@pytest.mark.parametrize("image", ["debian", "debian-backports"])
@pytest.mark.parametrize("firmware", ["seabios", "ovmf"])
@pytest.mark.parametrize(("gpaw", "cpus"), [(48, 2), (52, 1)])
def test_stock_kernels_boot(
    tmp_path: Path, image: str, firmware: str, gpaw: int, cpus: int
) -> None:
    bios = ("-bios", str(ovmf())) if firmware == "ovmf" else ()
    extra = td(f",gpaw={gpaw}", "-smp", str(cpus), *bios)
    assert_is_td(boot(tmp_path, resolve(image, exec_command=LOOK), extra=extra))


@pytest.mark.parametrize("firmware", ["seabios", "ovmf"])
def test_a_stock_kernel_takes_every_ve(tmp_path: Path, firmware: str) -> None:
    bios = ("-bios", str(ovmf())) if firmware == "ovmf" else ()
    extra = td(",ve=strict", "-smp", "2", *bios)
    assert_is_td(boot(tmp_path, resolve(exec_command=LOOK), extra=extra))


def test_a_stock_kernel_copes_with_conversions_cut_short(tmp_path: Path) -> None:
    extra = td(",map-gpa-max=1M")
    assert_is_td(boot(tmp_path, resolve(exec_command=LOOK), extra=extra))


def test_disk_contents_arrive_through_bounce_buffers(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(DISK_BYTES)
    disk = tmp_path / "disk"
    disk.write_bytes(content)
    folder = tmp_path / "run"
    done = cvmlab(
        "boot", "debian", "--coco", "tdx", "--disk", str(disk), "--exec", "md5sum /dev/vda",
        "--max-faults", "0", "--json", "-", "--run-dir", str(folder),
    )  # fmt: skip
    assert done.code == 0
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert digest in (folder / "console.log").read_text()
    assert (done.result.counters.host_faults, done.result.counters.guest_violations) == (0, 0)
    assert done.result.pages.shared >= (64 << 20) >> 12


def test_most_of_a_large_guest_stays_unaccepted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = cvmlab(
        "boot", "--coco", "tdx", "--firmware", "ovmf", "-m", "6G",
        "--exec", "grep Unaccepted /proc/meminfo", "--json", "-", "--run-dir", str(folder),
    )  # fmt: skip
    assert done.code == 0
    (line,) = (
        line for line in (folder / "console.log").read_text().splitlines() if "Unaccepted" in line
    )
    unaccepted_pages = int(line.split()[1]) // 4
    assert unaccepted_pages > (2 << 30) >> 12
    # The command ran before the power-off, which may accept one more unit or two.
    assert 0 <= unaccepted_pages - done.result.pages.pending <= 2 * ((4 << 20) >> 12)


@pytest.fixture
def quotes(tmp_path: Path) -> Iterator[Path]:
    """A quote service that runs while the test does."""
    path = tmp_path / "quotes.sock"
    loop = asyncio.new_event_loop()
    serving, end = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with quote_service(path):
            serving.set()
            await end.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert serving.wait(10)
    yield path
    loop.call_soon_threadsafe(end.set)
    thread.join(10)
    loop.close()


def test_attestation_by_configfs(tmp_path: Path, quotes: Path) -> None:
    script = (
        "mount -t configfs c /sys/kernel/config; mkdir /sys/kernel/config/tsm/report/r; "
        "cd /sys/kernel/config/tsm/report/r; head -c 64 /dev/zero | tr '\\0' A > inblob; "
        "cat provider; echo; md5sum outblob; head -c 632 outblob | tail -c 64; echo; "
        "grep -c FAKE outblob"
    )
    guest = (
        '{"qom-type":"tdx-guest","id":"tdx0","quote-generation-socket":'
        f'{{"type":"unix","path":"{quotes}"}}}}'
    )
    files = resolve(exec_command=script, extra_modules=("tdx-guest",))
    booted = boot(tmp_path, files, extra=td(guest))
    assert booted.channel[-1] == "cvmlab exit 0", booted.console
    assert "tdx_guest" in booted.console
    assert "A" * 64 in booted.console
