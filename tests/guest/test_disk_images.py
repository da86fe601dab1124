# SPDX-License-Identifier: GPL-2.0-or-later
"""Installed systems boot from their own disk, through OVMF, under every profile that can."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from cvmlab.base.progress import Style
from cvmlab.images import disk_image, recipes
from cvmlab.qemu.build import qemu_img
from tests.guest.program import Done, cvmlab


pytestmark = pytest.mark.guest

_TIMEOUT_S, _DEADLINE_S = 500, 540  # a boot takes some twenty seconds of CPU time
_HOST_TEXT = "written on the host"


@pytest.fixture(scope="session")
def grub() -> Path:
    return _built("debian-disk")


@pytest.fixture(scope="session")
def uki() -> Path:
    return _built("debian-uki")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "note").write_text(_HOST_TEXT)
    return folder


def _built(name: str) -> Path:
    return disk_image.build(name, recipes.load().disk[name], style=Style.NONE).disk


def _boot(tmp_path: Path, *words: str) -> tuple[Done, str]:
    """Boot and return what the program said, and the console."""
    run = tmp_path / "run"
    given = ("--timeout", str(_TIMEOUT_S), "--json", "-", "--run-dir", str(run))
    done = cvmlab("boot", *words, *given, deadline_s=_DEADLINE_S)
    return done, (run / "console.log").read_text(errors="replace")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_grub_boots_a_td_that_runs_a_command_with_a_shared_folder(
    grub: Path, folder: Path, tmp_path: Path
) -> None:
    before = _digest(grub)
    command = (
        "systemctl is-system-running --wait; cat /share/note; touch /share/x; touch /x; "
        "grep -o -m1 tdx_guest /proc/cpuinfo; findmnt -no FSTYPE,SOURCE /; exit 7"
    )
    done, console = _boot(
        tmp_path, "debian-disk", "--coco", "tdx", "--share", str(folder),
        "--exec", command, "--max-faults", "0",
    )  # fmt: skip

    assert done.code == 7
    for expected in ("running", _HOST_TEXT, "Read-only file system", "tdx_guest", "ext4 /dev/vda2"):
        assert f"{expected}" in console
    found = done.result
    assert found.firmware == "ovmf"
    assert found.kernel is not None
    assert found.kernel.endswith("-cloud-amd64")
    assert (found.counters.host_faults, found.counters.guest_violations) == (0, 0)
    # Every page that a device saw was one that firmware or kernel had shared.
    assert {item.actor for item in found.conversions} == {"vcpu"}
    assert _digest(grub) == before


def test_a_users_qcow2_with_a_unified_kernel_image_is_read_under_share_and_never_written(
    uki: Path, tmp_path: Path
) -> None:
    qcow2 = tmp_path / "users.qcow2"
    _qemu_img("convert", "-O", "qcow2", str(uki), str(qcow2))
    before = _digest(qcow2)
    done, console = _boot(
        tmp_path, "--disk", str(qcow2), "--firmware", "ovmf", "--on-host-access", "share",
        "--exec", "echo it is $(cat /etc/hostname); cat /proc/cmdline; rm -rf /usr/share",
    )  # fmt: skip

    assert done.code == 0
    assert "it is cvmlab" in console
    assert "nokaslr" in console
    devices = {item.device for item in done.result.conversions if item.actor == "device"}
    assert devices == {"disk0-pci", "disk1-pci"}
    assert done.result.counters.host_faults == 0
    assert _digest(qcow2) == before
    compared = json.loads(_qemu_img("info", "--output=json", str(qcow2)))
    assert compared["virtual-size"] == uki.stat().st_size
    _qemu_img("compare", str(uki), str(qcow2))


def test_cloud_init_runs_the_users_data_and_then_the_command(tmp_path: Path) -> None:
    _built("debian-cloud")
    users = tmp_path / "user-data"
    users.write_text("#cloud-config\nhostname: from-the-user\nruncmd:\n  - echo before >/run/x\n")
    done, console = _boot(
        tmp_path, "debian-cloud", "--coco", "off", "--user-data", str(users),
        "--exec", "cat /run/x; echo I am $(hostname); exit 5",
    )  # fmt: skip

    assert done.code == 5
    assert "before\nI am from-the-user\n" in console.replace("\r", "")


@pytest.mark.parametrize(
    ("image", "coco", "kind"), [("debian-9p", "tdx", "9p"), ("debian", "tdx", "ext4")]
)
def test_a_folder_is_shared_in_the_way_that_the_kernel_has(
    image: str, coco: str, kind: str, folder: Path, tmp_path: Path
) -> None:
    done, console = _boot(
        tmp_path, image, "--coco", coco, "--share", str(folder), "--max-faults", "0",
        "--exec", "grep /share /proc/mounts; cat /share/note; touch /share/x",
    )  # fmt: skip

    assert done.code == 1  # it cannot be written
    assert f" /share {kind} " in console
    assert _HOST_TEXT in console
    assert list(folder.iterdir()) == [folder / "note"]


def _qemu_img(*arguments: str) -> str:
    done = subprocess.run(
        [qemu_img(), *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
