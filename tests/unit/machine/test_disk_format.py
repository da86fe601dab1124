# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk is opened in the format of its content, whatever its name."""

from pathlib import Path
from uuid import UUID

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.machine.disk_format import DiskFormat, Packed, disk_format, found_in
from cvmlab.machine.firmware_image import require_firmware
from cvmlab.machine.spec import Disk


pytestmark = pytest.mark.fault("U13")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", DiskFormat.RAW),
        (b"\xeb\x63\x90" + bytes(509), DiskFormat.RAW),
        (b"QFI\xfb", DiskFormat.QCOW2),
        (b"KDMV\1", DiskFormat.VMDK),
        (b"# Disk DescriptorFile\nversion=1\n", DiskFormat.VMDK),
        (b"vhdxfile", DiskFormat.VHDX),
        (b"conectix" + bytes(504), DiskFormat.VHD),
        (bytes(4096) + b"conectix" + bytes(504), DiskFormat.VHD),
        (b"<<< a virtual box disk image >>>".ljust(64) + b"\x7f\x10\xda\xbe", DiskFormat.VDI),
        (b"\x1f\x8b\x08", Packed.GZIP),
        (b"\xfd7zXZ\0", Packed.XZ),
        (b"\x28\xb5\x2f\xfd", Packed.ZSTD),
    ],
)
def test_formats_are_told_by_content(
    tmp_path: Path, content: bytes, found: DiskFormat | Packed
) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(content)
    assert found_in(path) is found


def test_a_compressed_disk_is_refused_with_what_unpacks_it(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(b"\xfd7zXZ\0")
    with pytest.raises(ConfigError, match="is compressed") as caught:
        Disk(path)
    assert caught.value.hint == f"unpack it first: xz -dk {path}"
    assert Disk(path, format=DiskFormat.RAW).format is DiskFormat.RAW


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    assert disk_format(Path("/dev/zero")) is DiskFormat.RAW
    assert disk_format(tmp_path) is DiskFormat.RAW


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (b"QFI\xfb" + bytes(65532), "is a qcow2 file", "qemu-img convert -O raw"),
        (b"\x1f\x8b\x08", "is compressed", "gzip -dk"),
        (b"x" * 100, "its size, 100 bytes, is no multiple of 64K", "give seabios"),
        (b"", "its size, 0 bytes, is no multiple of 64K", "give seabios"),
    ],
)
@pytest.mark.fault("V14")
def test_firmware_that_is_none_is_refused(
    tmp_path: Path, content: bytes, message: str, hint: str
) -> None:
    path = tmp_path / "firmware.fd"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        require_firmware(path)
    assert message in caught.value.message
    assert str(caught.value.hint).startswith(hint)


FILES = UUID("8c8ce578-8a3d-4f1c-9935-896185c32dd3")
VARIABLES = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
VARS_BYTES, CODE_BYTES = 0x20000, 0x1E0000  # of the image of 2 MiB


def volume(guid: UUID, size: int, length: int) -> bytes:
    """Return a file that begins with a firmware volume."""
    header = bytes(16) + guid.bytes_le + length.to_bytes(8, "little") + b"_FVH"
    return header + bytes(size - len(header))


@pytest.mark.fault("V10")
@pytest.mark.parametrize(
    ("content", "other"),
    [
        (volume(FILES, CODE_BYTES, 0x1A0000), "it has the code, and not the variables (OVMF_VARS"),
        (
            volume(VARIABLES, VARS_BYTES, VARS_BYTES),
            "it has the variables, and not the code (OVMF_C",
        ),
    ],
)
def test_half_a_flash_image_is_refused_and_the_other_half_named(
    tmp_path: Path, content: bytes, other: str
) -> None:
    path = tmp_path / "half.fd"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        require_firmware(path)
    assert f"--firmware {path} is half a flash image: {other}" in caught.value.message
    assert "cat VARS CODE > half-whole.fd" in str(caught.value.hint)


@pytest.mark.fault("V10")
def test_a_whole_flash_image_is_firmware(tmp_path: Path) -> None:
    path = tmp_path / "whole.fd"
    whole = volume(VARIABLES, VARS_BYTES, VARS_BYTES) + volume(FILES, CODE_BYTES, 0x1A0000)
    for content in (whole, volume(FILES, 2 << 20, 2 << 20), bytes(256 << 10)):
        path.write_bytes(content)
        require_firmware(path)
