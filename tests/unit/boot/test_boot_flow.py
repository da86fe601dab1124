# SPDX-License-Identifier: GPL-2.0-or-later
"""A request flows one way: request, words, guest files, machine, plan, run."""

from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.boot.read_request import read_request
from cvmlab.boot.request import Request
from cvmlab.machine.disk_format import DiskFormat
from cvmlab.machine.spec import Disk, DiskInterface, Firmware
from tests.fakes import kernel_files
from tests.imports import PACKAGE, imports


STAGES = (
    "request", "words", "disk", "guest_architecture", "read_request", "kernel_code", "disk_files", "boot_guest", "guest_machine",
    "disk_architecture", "plan",
    "awareness", "naming", "judge", "endings", "restored", "replayed", "run", "terminal", "watch",
)  # fmt: skip
# They get what was asked for as it was typed: to read it, to start with it, to name what failed.
READERS_OF_THE_REQUEST = {"read_request", "plan", "judge"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kernel").write_bytes(
        kernel_files.elf({".note.pvh": kernel_files.pvh_note(0x1000)})
    )
    (tmp_path / "x.img").write_bytes(b"QFI\xfb" + bytes(508))


def imported_by(stage: str) -> list[str]:
    names = [name.split(".") for _, name in imports(PACKAGE / "boot" / f"{stage}.py")]
    return [name[2] for name in names if name[:2] == ["cvmlab", "boot"]]


def test_each_stage_imports_only_those_before_it() -> None:
    assert {path.stem for path in (PACKAGE / "boot").glob("[a-z]*.py")} == set(STAGES)
    for number, stage in enumerate(STAGES):
        assert set(imported_by(stage)) <= set(STAGES[:number]), stage


def test_the_request_is_read_once() -> None:
    assert {stage for stage in STAGES if "request" in imported_by(stage)} == READERS_OF_THE_REQUEST


def test_words_are_typed_and_take_the_form_of_the_machine() -> None:
    words = read_request(
        Request.of(kernel="kernel", disks=["x.img"], disk_interface="nvme", memory="512M", gdb=True)
    )
    disk = Disk(Path("x.img"), DiskInterface.NVME, DiskFormat.QCOW2)
    assert words.machine.disks == (disk,)
    assert words.machine.memory_bytes == 512 << 20
    assert (words.machine.gdb, words.machine.debuggable) == ("tcp:127.0.0.1:1234", True)
    assert (words.machine.kernel, words.guest.kernel) == (None, Path("kernel"))
    assert (words.title, words.paused, words.judge.timeout_s) == ("kernel", True, 24 * 3600)


def test_what_only_scripts_and_tests_can_ask_for_reaches_the_machine_too() -> None:
    words = read_request(Request.of(kernel="kernel", rng_seed=7, iommu_platform=True, paused=True))
    assert (words.machine.rng_seed, words.machine.iommu_platform, words.paused) == (7, True, True)


def test_the_firmware_is_one_that_can_boot_the_guest() -> None:
    def firmware(**options: object) -> object:
        return read_request(Request.of(**options)).machine.firmware

    assert firmware(kernel="kernel") is Firmware.SEABIOS
    assert firmware(disks="x.img", coco="tdx") is Firmware.OVMF
    assert firmware(disks="x.img", coco="off") is Firmware.SEABIOS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        # What is typed wrongly comes before what does not fit together, and before missing files.
        ({"cpus": "many", "image": "debian", "kernel": "nowhere"}, "cpus must be a whole number"),
        ({"image": "debian", "kernel": "nowhere"}, "an image and --kernel cannot be combined"),
        (
            {"kernel": "nowhere", "qemu": "kernel", "qemu_version": "11.1"},
            "--qemu and --qemu-version cannot be combined",
        ),
        ({"kernel": "nowhere", "cpus": 300}, "--kernel: cannot read nowhere"),
        ({"kernel": "kernel", "cpus": 300, "user_data": "kernel"}, "--cpus must be 1 to 255"),
        ({"kernel": "kernel", "user_data": "kernel"}, "--user-data needs a guest that boots from"),
    ],
)
def test_the_first_thing_that_is_wrong_is_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_request(Request.of(**options))
    assert caught.value.message.removeprefix("--").startswith(message.removeprefix("--"))
