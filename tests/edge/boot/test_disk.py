# SPDX-License-Identifier: GPL-2.0-or-later
"""What can boot from a disk, what can be told to it, and what the machine is then."""

from pathlib import Path

import pytest

from cvmlab.cli import main
from tests.fakes import kernel_files


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with a kernel, a disk and a program that stands for QEMU."""
    (tmp_path / "kernel").write_bytes(
        kernel_files.elf({".note.pvh": kernel_files.pvh_note(0x1000)})
    )
    (tmp_path / "disk.raw").write_bytes(bytes(512))
    (tmp_path / "cloud.yaml").write_text("#cloud-config\n")
    program = tmp_path / "qemu"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CVMLAB_QEMU", str(program))
    monkeypatch.setenv("CVMLAB_ROM_DIRS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        (
            "boot debian-disk --coco tdx --initrd kernel",
            "--initrd has no effect on a guest that boots from its own disk",
            "add --kernel, or boot an image that is not a disk",
        ),
        (
            "boot debian-disk",
            "a generic guest with --on-host-access deny cannot boot from a disk: "
            "the firmware does not share its disk buffers",
            "--on-host-access share",
        ),
        (
            "boot --disk disk.raw --coco sw-protected --on-host-access zero",
            "a sw-protected guest with --on-host-access zero cannot boot from a disk: "
            "the firmware does not share its disk buffers",
            "--coco generic, tdx, sev, sev-es, sev-snp or off",
        ),
        (
            "boot debian-disk --coco off --firmware seabios",
            "debian-disk boots by EFI only",
            "--firmware ovmf",
        ),
        (
            "boot --disk disk.raw --coco tdx --firmware seabios",
            "SeaBIOS cannot share its disk buffers, so a tdx guest cannot boot from a disk",
            "--firmware ovmf",
        ),
        (
            "boot debian-disk --coco off --user-data kernel",
            "--user-data: debian-disk does not have cloud-init",
            "use debian-cloud",
        ),
        (
            "boot --disk disk.raw --coco off --user-data nowhere",
            "--user-data: cannot read nowhere: No such file or directory",
            "--user-data takes the path of a file",
        ),
        (
            "boot -k kernel --user-data kernel",
            "--user-data needs a guest that boots from a disk with cloud-init",
            "give the disk with --disk and no kernel, or boot debian-cloud",
        ),
        (
            "boot -k kernel --share disk.raw",
            "--share: cannot read disk.raw: Not a directory",
            "--share takes the path of a folder",
        ),
        pytest.param(
            "boot -k kernel --share .",
            "a generic guest with --on-host-access deny cannot use --share: "
            "the guest does not share its buffers with devices",
            "--on-host-access share",
            marks=pytest.mark.fault("U3"),
        ),
        pytest.param(
            "boot -k kernel --share . --coco sw-protected --on-host-access zero",
            "a sw-protected guest with --on-host-access zero cannot use --share: "
            "the guest does not share its buffers with devices",
            "--coco generic, tdx, sev, sev-es, sev-snp or off",
            marks=pytest.mark.fault("U3"),
        ),
        (
            "boot -k .",
            "--kernel: the folder . has no arch/x86/boot/bzImage or arch/arm64/boot/Image",
            "run make bzImage there, or give the path of a kernel",
        ),
        (
            "boot -k kernel --console --json -",
            "--console and --json - both use standard output",
            "--json FILE",
        ),
    ],
)
def test_what_could_not_boot_is_refused_before_anything_is_built(
    files: Path, capsys: pytest.CaptureFixture[str], line: str, message: str, hint: str
) -> None:
    assert main(line.split()) == 85
    assert capsys.readouterr().err.splitlines() == [f"cvmlab: {message}", f"hint: {hint}"]


def _command(capsys: pytest.CaptureFixture[str], line: str) -> str:
    assert main([*line.split(), "--dry-run"]) == 0
    return capsys.readouterr().out


def test_a_users_disk_boots_by_seabios_where_that_can_be(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "-bios" not in _command(capsys, "boot --disk disk.raw --coco off")
    assert "-bios OVMF.fd" in _command(capsys, "boot --disk disk.raw --coco tdx")
    assert "-bios" not in _command(capsys, "boot -k kernel --coco tdx --disk disk.raw")


def test_a_disk_that_is_stopped_at_may_be_denied(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "access-policy=stop" in _command(capsys, "boot --disk disk.raw --on-host-access stop")


def test_a_command_is_a_second_disk(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = _command(capsys, "boot --disk disk.raw --coco off --exec true --user-data cloud.yaml")
    first, second = (line for line in told.splitlines() if line.lstrip().startswith("-drive"))
    assert first.endswith("file=disk.raw \\")
    assert "snapshot=on" in second
    assert ".iso" in second
    assert "cidata" not in _command(capsys, "boot --disk disk.raw --coco off")


def test_a_tree_with_9p_gets_a_folder_and_another_kernel_a_disk(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "folder").mkdir()
    words = "--share folder --initrd kernel --coco tdx"
    plain = _command(capsys, f"boot -k kernel {words}")
    assert "virtio-9p-pci" not in plain
    assert "serial=cvmlab-share" in plain
    (files / ".config").write_text("CONFIG_NET_9P_VIRTIO=y\nCONFIG_9P_FS=y\n")
    by_9p = _command(capsys, f"boot -k kernel {words}")
    assert "local,id=share,path=folder,security_model=none,readonly=on" in by_9p
    assert "virtio-9p-pci,id=share-pci,fsdev=share,mount_tag=cvmlab-share" in by_9p
    assert "cvmlab-share,ioeventfd" in by_9p
    assert "serial=cvmlab-share" not in by_9p
