# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's architecture is told by its kernel or image; what contradicts it is refused."""

from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.boot.read_request import read_request
from cvmlab.boot.request import Request
from cvmlab.machine.spec import BootSpec, Firmware
from tests.fakes.kernel_files import arm64_image, bzimage


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to be in, with a kernel of each architecture, a build tree and a disk."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pc").write_bytes(bzimage())
    (tmp_path / "arm").write_bytes(arm64_image())
    (tmp_path / "disk").write_bytes(b"QFI\xfb" + bytes(508))
    tree = tmp_path / "linux/arch/arm64/boot"
    tree.mkdir(parents=True)
    (tree / "Image").write_bytes(arm64_image())


def machine(**given: object) -> BootSpec:
    return read_request(Request.of(coco="off", **given)).machine


@pytest.mark.parametrize(
    ("given", "name", "firmware"),
    [
        ({}, "x86_64", Firmware.SEABIOS),
        ({"kernel": "pc"}, "x86_64", Firmware.SEABIOS),
        ({"kernel": "arm"}, "aarch64", Firmware.DIRECT),
        ({"kernel": "arm", "arch": "aarch64"}, "aarch64", Firmware.DIRECT),
        ({"kernel": "arm", "firmware": "ovmf"}, "aarch64", Firmware.OVMF),
        ({"kernel": "linux"}, "aarch64", Firmware.DIRECT),
        ({"arch": "aarch64"}, "aarch64", Firmware.DIRECT),
        ({"image": "debian-arm64"}, "aarch64", Firmware.DIRECT),
        ({"image": "debian"}, "x86_64", Firmware.SEABIOS),
        ({"disks": ["disk"]}, "x86_64", Firmware.SEABIOS),
        ({"disks": ["disk"], "arch": "aarch64"}, "aarch64", Firmware.OVMF),
        ({"disks": ["disk"], "image": "debian-arm64"}, "aarch64", Firmware.DIRECT),
    ],
)
def test_the_architecture_is_that_of_the_guest(
    given: dict[str, object], name: str, firmware: Firmware
) -> None:
    made = machine(**given)
    assert (made.architecture.name, made.firmware) == (name, firmware)


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        (
            {"kernel": "pc", "arch": "aarch64"},
            "pc is a kernel for x86_64, but --arch is aarch64",
            "leave --arch out, or boot a guest for aarch64",
        ),
        (
            {"kernel": "arm", "arch": "x86_64"},
            "arm is a kernel for aarch64, but --arch is x86_64",
            "leave --arch out, or boot a guest for x86_64",
        ),
        (
            {"image": "debian-disk", "arch": "aarch64"},
            "debian-disk is for x86_64, but --arch is aarch64",
            "leave --arch out, or boot a guest for aarch64",
        ),
        (
            {"kernel": "arm", "coco": "tdx"},
            "profile tdx is for guests of x86_64, and this one is of aarch64",
            "boot a guest of x86_64, or --coco off",
        ),
        (
            {"image": "debian", "coco": "cca"},
            "profile cca is for guests of aarch64, and this one is of x86_64",
            "boot a guest of aarch64, or --coco off",
        ),
        (
            {"kernel": "arm", "firmware": "seabios"},
            "aarch64 has no firmware seabios",
            "--firmware direct, ovmf, or a file",
        ),
        (
            {"kernel": "pc", "firmware": "direct"},
            "x86_64 has no firmware direct",
            "--firmware seabios, ovmf, or a file",
        ),
        (
            {"disks": ["disk"], "arch": "aarch64", "firmware": "direct"},
            "--firmware direct starts a kernel, and a disk needs firmware that looks for one",
            "--firmware ovmf, or give a kernel with --kernel",
        ),
        (
            {"kernel": "arm", "cpus": 513},
            "--cpus must be 1 to 512 (got 513)",
            "one or two are enough for most guests",
        ),
        (
            {"kernel": "linux", "arch": "x86_64"},
            "--kernel: the folder linux has no arch/x86/boot/bzImage",
            "run make bzImage there, or give the path of a kernel",
        ),
        (
            {"arch": "riscv64"},
            "--arch: there is no 'riscv64'",
            "known are x86_64, aarch64",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(
    given: dict[str, object], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        read_request(Request.of(**{"coco": "off", **given}))
    assert (refused.value.message, refused.value.hint) == (message, hint)
    assert refused.value.exit_code == 85
