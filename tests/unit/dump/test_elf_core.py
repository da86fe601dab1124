# SPDX-License-Identifier: GPL-2.0-or-later
"""The headers of an ELF core, read by a library that others wrote."""

import io

import pytest
from elftools.elf.elffile import ELFFile

from cvmlab.base.errors import ConfigError
from cvmlab.dump.contents import Extent
from cvmlab.dump.elf_core import core_layout
from cvmlab.dump.notes import Note


NOTE = Note(b"VMCOREINFO", 0, b"OSRELEASE=1\n")
EXTENTS = [Extent(0, 0x8000, ()), Extent(1 << 32, 0x4000, ())]


def test_another_reader_finds_segments_and_notes() -> None:
    layout = core_layout(62, [NOTE], EXTENTS)
    elf = ELFFile(io.BytesIO(layout.head.ljust(layout.size, b"\0")))
    assert (elf.header["e_type"], elf.header["e_machine"]) == ("ET_CORE", "EM_X86_64")
    notes, *loads = elf.iter_segments()
    assert notes.data() == NOTE.encode()
    assert [(load["p_paddr"], load["p_filesz"], load["p_memsz"]) for load in loads] == [
        (0, 0x8000, 0x8000),
        (1 << 32, 0x4000, 0x4000),
    ]
    assert tuple(load["p_offset"] for load in loads) == layout.offsets
    assert all(offset % 4096 == 0 for offset in layout.offsets)
    assert layout.size == layout.offsets[-1] + 0x4000


def test_more_segments_than_the_header_can_count_are_refused() -> None:
    many = [Extent(2 * at * 4096, 4096, ()) for at in range(0xFFFE)]
    with pytest.raises(ConfigError, match="in 65534 parts, too many for an ELF file"):
        core_layout(62, [], many)
    assert core_layout(62, [], many[:-1]).offsets
