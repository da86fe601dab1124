# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps of the core that a run has left, and what keeps them from being written."""

import os
from pathlib import Path

import numpy as np
import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.dump.contents import Holder, Reach, extents, pieces
from cvmlab.dump.core_file import CoreContent, write_core
from cvmlab.dump.debuggers import drgn_on_dump
from cvmlab.dump.kdump_file import is_kdump
from cvmlab.dump.notes import Note, PageStates
from cvmlab.dump.saved_states import load_states
from cvmlab.dump.take import DumpFormat, convert_dump
from cvmlab.memory.ranges import PAGE_SIZE, Slot
from cvmlab.memory.states import Layout
from cvmlab.memory.table import runs_of
from tests.unit.generations.namespaces import in_own_mounts, mount_tmpfs


PAGES = 512
SLOT = Slot(0, 0, PAGES * PAGE_SIZE)


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """A core of a guest with 2 MiB of private memory, and a page of it shared."""
    return made(tmp_path / "memory.core", Reach.ALL)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def made(path: Path, reach: Reach) -> Path:
    table = np.ones(PAGES, np.uint8)
    table[7] = 2
    states = PageStates((SLOT,), table, has_private=reach is Reach.ALL)
    found = pieces((SLOT,), runs_of([(0, table)], 0, PAGES), Layout.IN_PLACE, reach)
    memory = os.memfd_create("memory")
    try:
        os.pwrite(memory, np.random.default_rng(1).bytes(SLOT.size), 0)
        content = CoreContent(62, [Note(b"CORE", 1, b"")], states, extents(found))
        write_core(path, content, {Holder.PRIVATE: memory})
    finally:
        os.close(memory)
    return path


@pytest.mark.parametrize("form", list(DumpFormat))
def test_a_kept_core_becomes_a_dump_of_either_format(
    core: Path, tmp_path: Path, form: DumpFormat
) -> None:
    file = tmp_path / "dump"
    file.write_bytes(b"an older dump")
    taken = convert_dump(core, file, form=form)
    assert is_kdump(file) == (form is DumpFormat.KDUMP)
    assert load_states(file).table.sum() == PAGES + 1
    assert taken.size >= SLOT.size  # it is noise
    assert names(tmp_path) == [
        "dump", "dump.pages.npz", "memory.core",
    ]  # fmt: skip


def test_private_memory_cannot_be_had_from_a_dump_without_it(tmp_path: Path) -> None:
    part = made(tmp_path / "part", Reach.SHARED)
    with pytest.raises(ConfigError, match="has no private memory"):
        convert_dump(part, tmp_path / "dump", form=DumpFormat.ELF)
    convert_dump(part, tmp_path / "dump", form=DumpFormat.ELF, reach=Reach.SHARED)


@pytest.mark.parametrize("form", list(DumpFormat))
def test_a_full_disk_leaves_what_was_there(core: Path, tmp_path: Path, form: DumpFormat) -> None:
    point = tmp_path / "small"

    def attempt() -> list[str]:
        mount_tmpfs(str(point), "size=1m")
        (point / "dump").write_text("an older dump")
        try:
            convert_dump(core, point / "dump", form=form)
        except ConfigError as error:
            return [str(error), (point / "dump").read_text(), *names(point)]
        return ["it fitted"]

    assert in_own_mounts(attempt) == [
        f"the dump {point}/dump cannot be written: No space left on device",
        "an older dump",
        "dump",
    ]


def test_drgn_is_given_a_dump_and_its_symbols(core: Path, tmp_path: Path) -> None:
    command = drgn_on_dump(core, ["-q"], symbols=tmp_path / "vmlinux")
    assert command[-6:] == [
        "--core", str(core), "--no-default-symbols", "--symbols", str(tmp_path / "vmlinux"), "-q",
    ]  # fmt: skip
