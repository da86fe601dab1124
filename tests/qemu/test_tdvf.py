# SPDX-License-Identifier: GPL-2.0-or-later
"""TDVF metadata: sections are placed as QEMU's hw/i386/tdvf.c does, and what it refuses is refused."""

import struct
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from tests.qemu.conftest import Boot


pytestmark = [pytest.mark.qemu, pytest.mark.fault("F2")]

IMAGE_BYTES = 64 << 10
IMAGE_GPA = (4 << 30) - IMAGE_BYTES
RAM_GPA = 8 << 20
FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
TDVF_OFFSET = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
METADATA_FROM_END = 0x400
BFV, CFV, TD_HOB, TEMP_MEM = range(4)
Section = tuple[int, int, int, int, int, int]  # offset, data, address, size, type, attributes

WHOLE: Section = (0, IMAGE_BYTES, IMAGE_GPA, IMAGE_BYTES, BFV, 1)
HOB: Section = (0, 0, RAM_GPA + 0x100000, PAGE_SIZE, TD_HOB, 0)
VARIABLES: Section = (PAGE_SIZE, PAGE_SIZE, RAM_GPA, 2 * PAGE_SIZE, CFV, 0)


def firmware(*sections: Section, length: int | None = None) -> bytes:
    """Return a firmware image, each page filled with its number, whose metadata says *sections*."""
    pages = IMAGE_BYTES // PAGE_SIZE
    image = bytearray(b"".join(bytes([number]) * PAGE_SIZE for number in range(pages)))
    body = b"".join(struct.pack("<IIQQII", *section) for section in sections)
    size = 16 + len(body) if length is None else length
    metadata = struct.pack("<4sIII", b"TDVF", size, 1, len(sections)) + body
    at = IMAGE_BYTES - METADATA_FROM_END
    image[at : at + len(metadata)] = metadata
    entry = struct.pack("<IH", METADATA_FROM_END, 22) + TDVF_OFFSET.bytes_le
    table = entry + struct.pack("<H", len(entry) + 18) + FOOTER.bytes_le
    image[-32 - len(table) : -32] = table
    return bytes(image)


async def test_a_section_in_ram_has_the_images_bytes(boot: Boot, tmp_path: Path) -> None:
    path = tmp_path / "firmware.fd"
    path.write_bytes(firmware(WHOLE, VARIABLES, HOB))
    async with boot(coco="tdx", kernel=None, firmware=path, cont=False) as vm:
        found = vm.in_file(vm.files.fds.private, RAM_GPA, 2 * PAGE_SIZE)
    # MemoryDataSize bytes of the file, as QEMU maps them: also behind RawDataSize.
    assert found == bytes([1]) * PAGE_SIZE + bytes([2]) * PAGE_SIZE


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ((0, 0, RAM_GPA, PAGE_SIZE, CFV, 0), "with 0x0 bytes of data"),
        ((0, 8, RAM_GPA, PAGE_SIZE, TEMP_MEM, 0), "with 0x8 bytes of data"),
        ((0, 8, RAM_GPA, PAGE_SIZE, TD_HOB, 0), "with 0x8 bytes of data"),
        ((0, 0x2000, RAM_GPA, PAGE_SIZE, CFV, 0), "with 0x2000 bytes of data"),
        ((0, 0, RAM_GPA, PAGE_SIZE, 4, 0), "type 4"),
        ((0, 0, RAM_GPA + 8, PAGE_SIZE, TEMP_MEM, 0), "cannot be placed"),
        ((IMAGE_BYTES, 8, RAM_GPA, PAGE_SIZE, CFV, 0), "cannot be placed"),
    ],
)
def test_a_bad_section_is_refused(
    patched_qemu: Path, tmp_path: Path, section: Section, said: str
) -> None:
    assert said in refusal(patched_qemu, tmp_path, firmware(WHOLE, section))


@pytest.mark.parametrize(
    ("sections", "length", "said"),
    [
        ((WHOLE,), None, "has 1 sections in 48 bytes"),
        ((WHOLE, HOB), 48, "has 2 sections in 48 bytes"),
    ],
)
def test_a_bad_header_is_refused(
    patched_qemu: Path, tmp_path: Path, sections: tuple[Section, ...], length: int | None, said: str
) -> None:
    assert said in refusal(patched_qemu, tmp_path, firmware(*sections, length=length))


def refusal(qemu: Path, folder: Path, image: bytes) -> str:
    """Return what QEMU says when it refuses to start with this firmware."""
    path = folder / "firmware.fd"
    path.write_bytes(image)
    argv: list[str | Path] = [
        qemu, "-nodefaults", "-display", "none", "-S", "-accel", "tcg", "-m", "64M",
        "-object", "tdx-guest,id=td0", "-bios", path,
        "-object", "memory-backend-restricted,id=ram0,size=64M,profile=tdx,layout=split",
        "-machine", "q35,smm=off,memory-backend=ram0,confidential-guest-support=td0",
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    return done.stderr
