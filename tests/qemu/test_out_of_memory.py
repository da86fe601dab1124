# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU that the kernel's OOM killer ends, for real: in a control group with little memory."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmlab.vm.outcome import End
from tests.qemu.conftest import MakeVm
from tests.qemu.successors import script


pytestmark = pytest.mark.qemu

LIMIT_BYTES = 160 << 20
FILLED_BYTES = 256 << 20
DEADLINE_S = 60.0
CGROUPS = Path("/sys/fs/cgroup")


def own_group() -> tuple[Path, str] | None:
    """Return this process's control group for memory, and its limit's file (version 1 or 2)."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            return CGROUPS / "memory" / path.lstrip("/"), "memory.limit_in_bytes"
        if not controllers and (CGROUPS / "cgroup.controllers").exists():
            return CGROUPS / path.lstrip("/"), "memory.max"
    return None


@pytest.fixture
def small_group() -> Iterator[Path]:
    """Make a control group with little memory, and remove it."""
    found = own_group()
    if found is None:
        pytest.skip("this machine has no control groups for memory")
    group = found[0] / f"cvmlab-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made in {found[0]}: {error.strerror}")
    try:
        try:
            (group / found[1]).write_text(str(LIMIT_BYTES))
        except OSError as error:
            pytest.skip(f"the memory of {group} cannot be limited: {error.strerror}")
        yield group
    finally:
        group.rmdir()


@pytest.mark.fault("V10")
async def test_a_qemu_that_was_killed_for_memory_is_said_to_be(
    churning: MakeVm, patched_qemu: Path, small_group: Path, tmp_path: Path
) -> None:
    join = f'echo $$ > {small_group}/cgroup.procs; exec {patched_qemu} "$@"'
    fill = f"-- fill 2000000 {FILLED_BYTES:x} 1;--"
    async with churning(qemu=script(tmp_path, join), memory="512M", append=fill) as vm:
        outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
    assert outcome.end is End.DIED
    assert outcome.detail == (
        "QEMU died with signal 9 (SIGKILL): the host killed it because memory ran out"
    )
