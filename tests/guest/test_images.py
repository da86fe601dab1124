# SPDX-License-Identifier: GPL-2.0-or-later
"""Images boot: every suite's kernel, our init and agent, drivers, users' initrds and disks."""

import gzip
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import zstandard

from cvmlab.base.errors import ImageError
from cvmlab.images.boot_files import BootFiles, overlay, resolve
from cvmlab.images.initramfs import append_segment, exec_segment
from cvmlab.images.symbols import from_elf
from cvmlab.images.vmlinux import extract_vmlinux
from cvmlab.qemu.build import qemu_img
from tests.guest.plain_boot import boot


pytestmark = pytest.mark.guest

_SUITES = ("debian", "debian-bookworm", "debian-backports", "debian-sid")
_DISK_BYTES = 8 << 20
_MARK = b"written by the host"


@pytest.mark.parametrize("image", _SUITES)
def test_the_kernel_of_every_suite_boots_and_says_its_release(tmp_path: Path, image: str) -> None:
    files = resolve(image)
    assert boot(tmp_path, files).channel == [f"cvmlab hello {files.release}", "cvmlab exit 0"]


@pytest.mark.parametrize(
    ("command", "status"), [("sh -c 'exit 7'", 7), ("kill -9 $$", 137), ("no-such-command", 127)]
)
def test_the_commands_exit_status_comes_back(tmp_path: Path, command: str, status: int) -> None:
    said = boot(tmp_path, resolve(exec_command=command)).channel
    assert said[-1] == f"cvmlab exit {status}"


def test_the_commands_output_is_on_the_console_and_its_input_is_empty(tmp_path: Path) -> None:
    booted = boot(tmp_path, resolve(exec_command="echo from $((6 * 7)); wc -c"))
    assert "from 42\n0\n" in booted.console
    assert len(booted.channel) == 2


def test_without_the_agents_port_the_command_runs_all_the_same(tmp_path: Path) -> None:
    booted = boot(tmp_path, resolve(exec_command="echo it ran"), has_channel=False)
    assert "it ran" in booted.console


def test_a_shell_is_given_when_asked_for(tmp_path: Path) -> None:
    booted = boot(tmp_path, resolve(), append="cvmlab.shell", typed=(" # ", "tty; exit 5\n"))
    assert booted.channel[-1] == "cvmlab exit 5"
    assert "/dev/ttyS0\n" in booted.console  # not /dev/console, on which ^C does nothing


@pytest.mark.parametrize(
    "compress",
    [
        pytest.param(lambda data: data + b"\0" * 3, id="plain"),
        pytest.param(lambda data: gzip.compress(data, 1), id="gzip"),
        pytest.param(lambda data: lzma.compress(data, check=lzma.CHECK_CRC32, preset=0), id="xz"),
        pytest.param(zstandard.compress, id="zstd"),
    ],
)
def test_a_command_can_be_appended_to_any_initrd(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    ours = resolve().initrd
    assert ours is not None
    users = tmp_path / "users.img"
    users.write_bytes(compress(ours.read_bytes()))
    said = boot(tmp_path, resolve("debian", initrd=users, exec_command="exit 7")).channel
    assert said[-1] == "cvmlab exit 7"


def test_a_second_command_replaces_the_first(tmp_path: Path) -> None:
    files = resolve(exec_command="exit 1")
    assert files.initrd is not None
    initrd = tmp_path / "two.img"
    initrd.write_bytes(append_segment(files.initrd.read_bytes(), exec_segment("exit 2")))
    assert boot(tmp_path, resolve("debian", initrd=initrd)).channel[-1] == "cvmlab exit 2"


_DISKS = {
    "virtio-blk": ("vda", ["-device", "virtio-blk-pci,drive=d"]),
    "nvme": ("nvme0n1", ["-device", "nvme,drive=d,serial=1"]),
    "ahci": ("sda", ["-device", "ahci,id=ahci0", "-device", "ide-hd,drive=d,bus=ahci0.0"]),
    "virtio-scsi": ("sda", ["-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=d"]),
}


@pytest.mark.parametrize("interface", _DISKS)
def test_drivers_of_the_devices_image_find_a_disk(tmp_path: Path, interface: str) -> None:
    device, options = _DISKS[interface]
    made = overlay(_disk(tmp_path), tmp_path, qemu_img())
    command = f"wait-for /dev/{device} && head -c {len(_MARK)} /dev/{device}"
    booted = _boot_with(tmp_path, made, options, resolve("debian-devices", exec_command=command))
    assert booted[0][-1] == "cvmlab exit 0"
    assert _MARK.decode() in booted[1]


def test_what_the_guest_writes_stays_in_the_overlay(tmp_path: Path) -> None:
    disk = _disk(tmp_path)
    made = overlay(disk, tmp_path, qemu_img())
    command = "wait-for /dev/vda; echo guest | dd of=/dev/vda conv=fsync && head -c 5 /dev/vda"
    files = resolve("debian-devices", exec_command=command)
    channel, console = _boot_with(tmp_path, made, _DISKS["virtio-blk"][1], files)
    assert channel[-1] == "cvmlab exit 0"
    assert "guest" in console
    assert disk.read_bytes() == _MARK.ljust(_DISK_BYTES, b"\0")


def test_a_disk_that_is_damaged_is_refused(tmp_path: Path) -> None:
    disk = tmp_path / "bad.qcow2"
    disk.write_bytes(b"QFI\xfb\0\0\0\x03")
    with pytest.raises(ImageError, match=r"disk .*/bad\.qcow2: \w.*cluster size"):
        overlay(disk, tmp_path, qemu_img())


def test_network_and_other_modules_load_without_a_word(tmp_path: Path) -> None:
    files = resolve("debian-devices", exec_command="ip -br link show eth0; lsmod")
    booted = boot(tmp_path, files, extra=["-nic", "user,model=virtio-net-pci"])
    assert booted.channel[-1] == "cvmlab exit 0"
    assert "cannot load" not in booted.console
    for module in ("virtio_net", "qemu_fw_cfg", "virtio_balloon", "virtio_rng", "ahci"):
        assert module in booted.console


@pytest.mark.parametrize("image", ["debian", "debian-backports"])  # two layouts of kallsyms
def test_the_kernel_can_be_taken_out_and_names_its_functions(image: str) -> None:
    symbols = from_elf(extract_vmlinux(resolve(image).kernel))
    assert len(symbols) > 10_000


def _disk(folder: Path) -> Path:
    disk = folder / "disk.raw"
    disk.write_bytes(_MARK.ljust(_DISK_BYTES, b"\0"))
    return disk


def _boot_with(
    folder: Path, disk: Path, device: Sequence[str], files: BootFiles
) -> tuple[list[str], str]:
    drive = ["-drive", f"if=none,id=d,format=qcow2,file={disk}"]
    booted = boot(folder, files, extra=[*drive, *device])
    return booted.channel, booted.console
