# SPDX-License-Identifier: GPL-2.0-or-later
"""A command in the guest: where it can run, what it prints, and what it is told when it cannot."""

import subprocess
from pathlib import Path

import pytest
import zstandard

from cvmlab import SyncVm
from cvmlab.images import cpio
from cvmlab.images.boot_files import resolve
from cvmlab.images.cpio import CpioEntry
from cvmlab.machine.disk_format import DiskFormat
from cvmlab.qemu.build import qemu_img
from tests.fakes.cpio_reader import read_archive
from tests.guest.program import cvmlab


pytestmark = pytest.mark.guest

_APPLETS = ("sh", "mount", "mkdir", "stty", "uname", "sync", "sleep", "poweroff")
_MARK = "written by the host"


def ordinary_initrd(folder: Path, applets: tuple[str, ...] = _APPLETS) -> Path:
    """Make an initrd like a distribution's: a microcode archive, then a compressed one whose init
    looks for a root that is not there."""
    ours = resolve("debian").initrd
    assert ours is not None
    busybox = read_archive(ours.read_bytes())["bin/busybox"].data
    entries = [
        CpioEntry.directory("proc"),
        CpioEntry.file("usr/bin/busybox", busybox, 0o755),
        CpioEntry.symlink("bin", "usr/bin"),
        *(CpioEntry.symlink(f"usr/bin/{name}", "busybox") for name in applets),
        CpioEntry.file("init", b"#!/bin/sh\nwhile :; do sleep 1; done\n", 0o755),
    ]
    microcode = cpio.archive([CpioEntry.file("kernel/x86/microcode/AMD.bin", b"none")])
    path = folder / "initrd.img"
    path.write_bytes(microcode + zstandard.compress(cpio.archive(entries)))
    return path


@pytest.mark.fault("U4", "V13")
@pytest.mark.parametrize("applets", [_APPLETS, ("sh", "mount", "mkdir")])
def test_a_command_runs_in_an_ordinary_initrd(tmp_path: Path, applets: tuple[str, ...]) -> None:
    initrd = ordinary_initrd(tmp_path, applets)
    kernel = resolve("debian").kernel
    words = ("--kernel", str(kernel), "--initrd", str(initrd), "--coco", "tdx", "--json", "-")
    done = cvmlab("boot", *words, "--exec", "echo $PAGER-$SYSTEMD_PAGER-; exit 3")

    assert done.code == 3, done.err
    assert done.result.output is not None
    assert done.result.output.replace("\r", "") == "cat--\n"


@pytest.mark.fault("V13", "U3")
def test_a_command_of_the_shared_folder_is_heard_out(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("#!/bin/sh\nls -1 /share\nsleep 1000 &\nprintf end\n")
    (tmp_path / "run").chmod(0o755)
    done = cvmlab(
        "boot", "debian", "--coco", "tdx", "--share", str(tmp_path), "--exec", "/share/run",
        "--json", "-",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.result.output == "lost+found\nrun\nend"


@pytest.mark.fault("U3")
def test_a_shared_folder_that_never_comes_is_told() -> None:
    guest = resolve("debian", exec_command="echo it ran", share=True)
    with SyncVm(coco="off", kernel=guest.kernel, initrd=guest.initrd, append=guest.append) as vm:
        outcome = vm.wait_exit(timeout_s=120)
        assert outcome.guest_status is None
        assert str(outcome.problem).startswith("the shared folder's device is not there")
        assert "it ran" not in vm.console_text


@pytest.mark.fault("U13")
@pytest.mark.parametrize("kind", [DiskFormat.VMDK, DiskFormat.VDI, DiskFormat.VHDX, DiskFormat.VHD])
def test_a_disk_of_another_format_is_read(tmp_path: Path, kind: DiskFormat) -> None:
    raw, disk = tmp_path / "raw", tmp_path / "disk.img"
    raw.write_bytes(_MARK.encode().ljust(8 << 20, b"\0"))
    convert = [str(qemu_img()), "convert", "-f", "raw", "-O", kind, str(raw), str(disk)]
    subprocess.run(convert, check=True, timeout=60)
    done = cvmlab(
        "boot", "debian-devices", "--coco", "tdx", "--disk", str(disk), "--json", "-",
        "--exec", f"wait-for /dev/vda && head -c {len(_MARK)} /dev/vda",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.result.output == _MARK
