# SPDX-License-Identifier: GPL-2.0-or-later
"""The compressed format: what its headers say.  tests/guest/test_dump.py has other readers for it."""

import struct

import pytest

from cvmlab.base.errors import ImageError
from cvmlab.dump.contents import Extent
from cvmlab.dump.kdump import BLOCK, Tail, bitmap, headers, kdump_layout, notes_place
from cvmlab.dump.notes import Note


COREINFO = Note(b"VMCOREINFO", 0, b"OSRELEASE=6.12.1\nNUMBER(phys_base)=-4096\n")
CPU = Note(b"CORE", 1, b"registers")
EXTENTS = [Extent(0x2000, 0x3000, ()), Extent(1 << 32, 0x1000, ())]


def test_the_header_counts_both_bitmaps() -> None:
    """With one of them alone, crash takes the first bitmap for the second, and then finds no page."""
    layout = kdump_layout(EXTENTS)
    assert (layout.pages, layout.max_pfn) == (4, (1 << 20) + 1)
    assert layout.bitmap_blocks == 2 * 33  # 131 073 bytes each
    head = headers(62, [CPU, CPU, COREINFO], layout, 0x9000, 1)
    blocks, max_mapnr = struct.unpack_from("<II", head, 436)
    assert (blocks, max_mapnr) == (layout.bitmap_blocks, layout.max_pfn)
    assert layout.descriptors_at == (2 + blocks) * BLOCK


def test_the_header_says_release_cpus_and_where_the_kernel_is() -> None:
    head = headers(62, [CPU, CPU, COREINFO], kdump_layout(EXTENTS), 0x9000, 1)
    assert head.startswith(b"KDUMP   \6\0\0\0Linux\0")
    assert head[12 + 2 * 65 :].startswith(b"6.12.1\0")
    (cpus,) = struct.unpack_from("<i", head, 460)
    (phys_base,) = struct.unpack_from("<q", head, BLOCK)
    assert (cpus, phys_base) == (2, -4096)


def test_vmcoreinfo_is_a_part_of_the_notes() -> None:
    """makedumpfile, when it filters a dump again, moves both and takes their distance for granted."""
    notes = [CPU, COREINFO]
    tail = Tail.of(notes)
    head = headers(62, notes, kdump_layout(EXTENTS), 0x9000, 1)
    assert notes_place(head) == (0x9000, len(tail.notes))
    at, size = struct.unpack_from("<qQ", head, BLOCK + 32)
    assert tail.notes[at - 0x9000 :][:size] == COREINFO.content == tail.coreinfo
    assert Tail.of([CPU]).coreinfo == b""
    with pytest.raises(ImageError, match="cut short"):
        notes_place(head[:-1])


def test_a_bitmap_has_a_bit_for_each_page() -> None:
    layout = kdump_layout(EXTENTS)
    bits = bitmap(EXTENTS, layout)
    assert len(bits) == layout.bitmap_blocks // 2 * BLOCK
    assert bits[0] == 0b00011100
    assert bits[(1 << 20) // 8] == 1
    assert sum(map(int.bit_count, bits)) == 4
