# SPDX-License-Identifier: GPL-2.0-or-later
"""drgn, crash and makedumpfile read our VMs and dumps.  They need Debian's debug information (320 MB)."""

import asyncio
import re
from pathlib import Path

import pytest

from cvmlab.dump.take import DumpFormat, take_dump
from cvmlab.images.debug_info import debug_vmlinux
from tests.guest.dump_readers import crash, filtered
from tests.guest.program import cvmlab
from tests.guest.test_dump import waiting


pytestmark = [pytest.mark.guest, pytest.mark.long, pytest.mark.usefixtures("state_home")]

PROFILES = ["generic", "tdx", "sev", "sev-es", "sev-snp"]
DRGN_S = 300  # with the download
# The shell that waits, by its saved stack, which is in memory that only page tables find.
SCRIPT = """
from drgn.helpers.linux import for_each_task
tasks = list(for_each_task(prog))
print(len(tasks), sorted({task.comm.string_().decode() for task in tasks})[:200])
print(prog.stack_trace(next(task for task in tasks if task.comm.string_() == b"kthreadd")))
"""


def drgn(target: str) -> str:
    """Run `cvmlab drgn` on a VM or a dump; return what it prints."""
    done = cvmlab("drgn", target, "-e", SCRIPT, deadline_s=DRGN_S)
    assert done.code == 0, done.err
    return done.out


def saw_tasks(text: str) -> bool:
    """Say whether drgn has listed the tasks and unwound one of them."""
    return "'init'" in text and "'kthreadd'" in text and "ret_from_fork" in text


@pytest.mark.parametrize("coco", PROFILES)
async def test_drgn_looks_into_a_running_guest(coco: str) -> None:
    async with waiting(coco, debuggable=True, name="live"):
        assert saw_tasks(await asyncio.to_thread(drgn, "live"))


async def test_drgn_is_refused_by_another_guest() -> None:
    async with waiting("tdx", name="closed"):
        done = await asyncio.to_thread(cvmlab, "drgn", "closed", "-e", SCRIPT)
    assert done.code == 85
    assert "drgn cannot look into the VM closed" in done.err
    assert "boot it with --debuggable" in done.err


@pytest.mark.parametrize("form", list(DumpFormat))
@pytest.mark.parametrize("coco", ["generic", "tdx", "sev-snp"])
async def test_crash_drgn_and_makedumpfile_read_a_dump(
    tmp_path: Path, coco: str, form: DumpFormat
) -> None:
    dump, small = tmp_path / "dump", tmp_path / "small"
    async with waiting(coco, debuggable=True) as vm:
        await take_dump(vm, dump, form=form)
        vmlinux = await asyncio.to_thread(debug_vmlinux, vm.kernel_release, None)
    for file in (dump, small):
        said = await asyncio.to_thread(crash, vmlinux, file, "ps", "bt -a", "bt 2")
        assert re.search(r"^>?\s+1\s+0\s+\d\s+\w+\s+\w+.* init$", said, re.MULTILINE), said
        tasks = re.findall(r"^PID: (\d+) +TASK: \w+ +CPU: [01]", said, re.MULTILINE)
        assert len(tasks) == 3  # what runs on each CPU, and kthreadd
        assert tasks[-1] == "2"
        assert "kthreadd at ffffffff" in said
        if file == dump:
            assert saw_tasks(await asyncio.to_thread(drgn, str(dump)))
            await asyncio.to_thread(filtered, dump, small)
    assert small.stat().st_size < dump.stat().st_size
