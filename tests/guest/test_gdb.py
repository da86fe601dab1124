# SPDX-License-Identifier: GPL-2.0-or-later
"""`cvmlab gdb`: a debugger knows the functions of a stock kernel."""

from pathlib import Path

import pytest

from cvmlab import SyncVm
from cvmlab.images.boot_files import resolve
from tests.guest.program import Done, cvmlab
from tests.qemu.bare import build
from tests.tools import installed


pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("state_home")]

STOP_AT_START = (
    "-batch",
    "-ex",
    "hbreak start_kernel",
    "-ex",
    "continue",
    "-ex",
    "info symbol $pc",
)


def started(folder: Path, append: str, *, coco: str = "tdx", gdb: str | None = None) -> SyncVm:
    guest = resolve("debian")
    return SyncVm(
        kernel=guest.kernel, initrd=guest.initrd, append=append, coco=coco, name="held", paused=True,
        run_dir=folder, gdb=gdb, debuggable=gdb is not None,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _gdb() -> None:
    installed.require("gdb", "gdb")


def gdb(*words: str) -> Done:
    return cvmlab("gdb", "held", *words, deadline_s=120)


@pytest.mark.parametrize("coco", ["tdx", "sev-snp"])
def test_gdb_stops_at_a_function_of_a_kernel_without_symbols(tmp_path: Path, coco: str) -> None:
    server = f"unix:{tmp_path}/gdb,server=on,wait=off"
    with started(tmp_path / "run", "nokaslr", coco=coco, gdb=server):
        done = gdb(*STOP_AT_START)
    assert done.code == 0, done.err
    assert "in start_kernel ()" in done.out
    assert "start_kernel in section .text" in done.out


def test_gdb_needs_a_server_and_a_kernel_that_stays(tmp_path: Path) -> None:
    with started(tmp_path / "run", "nokaslr", coco="generic"):
        done = gdb()
    assert done.code == 85
    assert "the VM held has no gdb server" in done.err
    assert "start it with --gdb" in done.err
    server = f"unix:{tmp_path}/gdb,server=on,wait=off"
    with started(tmp_path / "moved", "kaslr", gdb=server):
        done = gdb()
    assert done.code == 85
    assert "where the guest's functions are is not known" in done.err
    assert "boot it with --append nokaslr" in done.err


def test_gdb_on_a_guest_that_is_no_linux_has_the_names_that_it_is_given(tmp_path: Path) -> None:
    elf, server = build(tmp_path), f"unix:{tmp_path}/gdb,server=on,wait=off"
    with SyncVm(
        kernel=elf, coco="tdx", name="held", paused=True, run_dir=tmp_path / "run", gdb=server,
        debuggable=True,
    ):  # fmt: skip
        nameless = gdb("-batch", "-ex", "info symbol $pc")
        done = gdb("--symbols", str(elf), "-batch", "-ex", "info address upper_half")
    assert nameless.code == 0, nameless.err
    assert done.code == 0, done.err
    assert 'Symbol "upper_half" is' in done.out
