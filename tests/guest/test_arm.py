# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock Debian kernels for arm64 boot on an emulated Arm machine, whatever the machine cvmlab runs on.

The first test builds QEMU for aarch64 if it is not there: minutes, from nothing.
"""

import gzip
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from cvmlab import SyncVm
from cvmlab.images.boot_files import resolve
from cvmlab.images.symbols import from_elf
from cvmlab.images.vmlinux import extract_vmlinux
from cvmlab.profiles.architecture import AARCH64
from cvmlab.qemu.build import install
from cvmlab.qemu.recipe import Flavour
from tests.fakes.kernel_files import zboot
from tests.guest.program import Done, cvmlab


pytestmark = [
    pytest.mark.guest,
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.usefixtures("state_home"),
]

DISK_BYTES = 4 << 20


@pytest.fixture(scope="module", autouse=True)
def qemu() -> None:
    """Build the emulator before the first boot is timed."""
    install(Flavour.PATCHED, architecture=AARCH64)


def boot(*words: str, code: int = 0) -> Done:
    """Boot an Arm guest as words say, and see how it ends."""
    done = cvmlab("boot", "--coco", "off", "--json", "-", *words)
    assert done.code == code, done.err
    return done


def output(*words: str) -> str:
    """Return what the guest's command prints, without the last line feed."""
    return (boot(*words).result.output or "").rstrip()


def test_arch_alone_boots_debians_arm_kernel_and_runs_a_command() -> None:
    done = boot("--arch", "aarch64", "--exec", "uname -m; cat /proc/cmdline")
    machine, parameters = (done.result.output or "").splitlines()
    assert machine == "aarch64"
    assert "console=ttyAMA0" in parameters
    assert (done.result.kernel or "").endswith("-arm64")
    assert done.result.firmware == "direct"


@pytest.mark.parametrize(
    "image", ["debian-arm64-generic", "debian-arm64-backports", "debian-arm64-sid"]
)
def test_other_stock_kernels_boot(image: str) -> None:
    assert output(image, "--exec", "uname -m") == "aarch64"


def test_the_status_of_the_command_is_that_of_the_boot() -> None:
    assert boot("--arch", "aarch64", "--exec", "exit 7", code=7).result.guest_exit == 7


def test_a_panic_ends_the_boot() -> None:
    done = boot("--arch", "aarch64", "--exec", "echo c >/proc/sysrq-trigger", code=255)
    assert "panic" in (done.result.message or "")


@pytest.mark.parametrize("form", ["Image", "Image.gz", "vmlinuz.efi"])
def test_a_kernel_file_says_itself_what_it_is(tmp_path: Path, form: str) -> None:
    plain = resolve("debian-arm64").kernel.read_bytes()
    packed = plain if form == "Image" else gzip.compress(plain, 1)
    kernel = tmp_path / form
    kernel.write_bytes(zboot(packed) if form == "vmlinuz.efi" else packed)
    assert output("--kernel", str(kernel), "--exec", "uname -m") == "aarch64"


def test_python_boots_an_arm_guest() -> None:
    guest = resolve("debian-arm64", exec_command="exit 3")
    with SyncVm(
        arch=guest.arch,
        coco="off",
        kernel=guest.kernel,
        initrd=guest.initrd,
        append=guest.append,
    ) as vm:
        assert vm.wait_exit(timeout_s=120).guest_status == 3


@pytest.mark.parametrize("firmware", ["direct", "ovmf"])
def test_two_cpus_start(firmware: str) -> None:
    words = ("--arch", "aarch64", "--cpus", "2", "--firmware", firmware)
    assert output(*words, "--exec", "nproc") == "2"


def test_edk2_starts_the_kernel_by_efi() -> None:
    command = "test -d /sys/firmware/efi/efivars && test -d /sys/firmware/acpi/tables"
    boot("--arch", "aarch64", "--firmware", "ovmf", "--exec", command)


def test_edk2_starts_what_is_on_a_disk(tmp_path: Path) -> None:
    """A kernel is an EFI application.  Without a root file system it panics, which shows it ran."""
    disk = tmp_path / "esp.raw"
    disk.write_bytes(b"")
    os.truncate(disk, 96 << 20)
    place = f"::{AARCH64.efi.default_program}"
    kernel = resolve("debian-arm64").kernel
    commands = ("mformat -F ::", "mmd ::EFI ::EFI/BOOT", f"mcopy {kernel} {place}")
    for program, *words in map(str.split, commands):
        subprocess.run([program, "-i", disk, *words], check=True, timeout=60)
    done = boot("--arch", "aarch64", "--disk", str(disk), code=255)
    assert done.result.firmware == "ovmf"
    assert "Unable to mount root fs" in (done.result.message or "")


def test_a_disk_without_a_system_is_told(tmp_path: Path) -> None:
    disk = tmp_path / "empty.raw"
    disk.write_bytes(bytes(1 << 20))
    done = cvmlab("boot", "--coco", "off", "--arch", "aarch64", "--disk", str(disk))
    assert "found nothing that it can boot" in done.out


def test_the_network_reaches_the_guest() -> None:
    command = "ip link set eth0 up && udhcpc -i eth0 -n -q -f -s /bin/true 2>&1"
    assert "10.0.2.15" in output("--arch", "aarch64", "--net", "user", "--exec", command)


@pytest.mark.parametrize(
    ("interface", "name", "image"),
    [
        ("virtio-blk", "vda", "debian-arm64"),
        ("nvme", "nvme0n1", "debian-arm64"),
        ("ahci", "sda", "debian-arm64"),
    ],
)
def test_a_disk_is_read_as_it_is(tmp_path: Path, interface: str, name: str, image: str) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(os.urandom(DISK_BYTES))
    command = f"wait-for /dev/{name} && sha256sum </dev/{name}"
    words = (image, "--disk", str(disk), "--disk-interface", interface)
    told = output(*words, "--exec", command)
    assert told.split()[0] == hashlib.sha256(disk.read_bytes()).hexdigest()


@pytest.mark.parametrize("image", ["debian-arm64", "debian-arm64-generic"], ids=["ext4", "9p"])
def test_a_shared_folder_is_there(tmp_path: Path, image: str) -> None:
    (tmp_path / "told").write_text("by the host\n")
    assert output(image, "--share", str(tmp_path), "--exec", "cat /share/told") == "by the host"


@pytest.mark.parametrize("image", ["debian-arm64", "debian-arm64-backports", "debian-arm64-sid"])
def test_functions_are_where_the_guest_says_they_are(image: str) -> None:
    names = ("start_kernel", "do_one_initcall", "kernel_clone")
    command = f"grep -E ' ({'|'.join(names)})$' /proc/kallsyms"
    told = dict(line.split(" T ")[::-1] for line in output(image, "--exec", command).splitlines())
    symbols = from_elf(extract_vmlinux(resolve(image).kernel))
    assert {name: symbols.address_of(name) for name in names} == {
        name: int(told[name], 16) for name in names
    }
