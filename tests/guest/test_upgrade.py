# SPDX-License-Identifier: GPL-2.0-or-later
"""A live Debian kernel at work while the QEMU under it is replaced, again and again.

By default three times each; ``tox -e long`` does it twenty times.
"""

import os
from pathlib import Path

import pytest

from cvmlab.images.boot_files import resolve
from cvmlab.machine.spec import Disk
from cvmlab.memory.records import Phase
from cvmlab.qemu.build import rom_dirs
from cvmlab.vm.outcome import End
from cvmlab.vm.vm import Vm
from tests.guest.devices import TSM_REPORT
from tests.guest.workload import work


pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("state_home")]

DEADLINE_S = 180


async def upgrade_under_load(coco: str, times: int) -> None:
    guest = resolve("debian", exec_command=work(times + 1, 8))
    vm = Vm(
        kernel=guest.kernel, initrd=guest.initrd, append=guest.append, memory="512M", coco=coco,
        net="user", cpus=2,
    )  # fmt: skip
    pids = set()
    async with vm:
        for number in range(1, times + 1):
            await vm.wait_for(f"pass {number}: 0 bad", fail=[r"[1-9]\d* bad"], timeout_s=DEADLINE_S)
            before = vm.pages.counters()
            upgrade = await vm.upgrade()
            pids.add(upgrade.new_pid)
            assert upgrade.bytes_sent < 1 << 20
            after = vm.pages.counters()
            assert all(after[counter] >= before[counter] for counter in before)
        outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
        assert (outcome.end, outcome.guest_status) == (End.POWERED_OFF, 0), vm.console.last_lines()
        assert len(pids) == times
        assert vm.pages.phase is Phase.USER
        assert vm.last_info is not None
        assert vm.last_info.counters["guest-violations"] == 0


@pytest.mark.timeout(500)
@pytest.mark.parametrize("coco", ["tdx", "sev-snp"])
async def test_a_working_guest_outlives_three_qemus(coco: str) -> None:
    await upgrade_under_load(coco, 3)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("coco", ["generic", "tdx", "sev", "sev-es", "sev-snp"])
async def test_a_working_guest_outlives_many_qemus(coco: str) -> None:
    await upgrade_under_load(coco, int(os.environ.get("CVMLAB_UPGRADES", "20")))


# What a quote says of the TD: from the 48 bytes of its header to RTMR3.
QUOTED = f"""
{TSM_REPORT}
head -c 632 outblob >/tmp/before
echo measured $(tail -c 256 /tmp/before | head -c 48 | tr -d '\\0' | wc -c); echo parked
read told </dev/console
head -c 64 /dev/zero | tr '\\0' A >inblob  # asks for another one
head -c 632 outblob >/tmp/after; wc -c </tmp/after; cmp /tmp/before /tmp/after
"""


@pytest.mark.timeout(300)
async def test_what_a_td_measured_outlives_its_qemu() -> None:
    guest = resolve("debian", exec_command=QUOTED, extra_modules=("tdx_guest",))
    vm = Vm(
        kernel=guest.kernel, initrd=guest.initrd, append=guest.append, coco="tdx", quotes=True,
        firmware="ovmf", rom_dirs=tuple(rom_dirs()),
    )  # fmt: skip
    async with vm:
        await vm.wait_for(r"measured [1-9]\d*\nparked", timeout_s=DEADLINE_S)
        await vm.upgrade()
        await vm.send("\n")
        await vm.wait_for(r"^632$", fail=["differ"], timeout_s=DEADLINE_S)
        outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
        assert (outcome.end, outcome.guest_status) == (End.POWERED_OFF, 0), vm.console.last_lines()


DISK_WORK = """
before=$(dd if=/dev/vda bs=1M count=4 2>/dev/null | sha256sum)
dd if=/dev/urandom of=/tmp/new bs=1M count=2 2>/dev/null; new=$(sha256sum </tmp/new); bad=0
for pass in 1 2 3 4 5 6; do
  dd if=/tmp/new of=/dev/vda bs=1M seek=4 2>/dev/null; sync; echo 3 >/proc/sys/vm/drop_caches
  [ "$(dd if=/dev/vda bs=1M skip=4 count=2 2>/dev/null | sha256sum)" = "$new" ] || bad=$((bad + 1))
  [ "$(dd if=/dev/vda bs=1M count=4 2>/dev/null | sha256sum)" = "$before" ] || bad=$((bad + 1))
  echo pass $pass: $bad bad; sleep 1
done
exit $bad
"""


@pytest.mark.timeout(400)
async def test_a_disk_keeps_what_was_written_under_another_qemu(tmp_path: Path) -> None:
    disk, content = tmp_path / "disk", os.urandom(8 << 20)
    disk.write_bytes(content)
    guest = resolve("debian-devices", exec_command=DISK_WORK)
    vm = Vm(
        kernel=guest.kernel, initrd=guest.initrd, append=guest.append, memory="512M",
        disks=(Disk(disk),), on_host_access="share",
    )  # fmt: skip
    async with vm:
        for number in (1, 3):
            await vm.wait_for(f"pass {number}: 0 bad", fail=[r"[1-9]\d* bad"], timeout_s=DEADLINE_S)
            await vm.upgrade()
        outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
        assert (outcome.end, outcome.guest_status) == (End.POWERED_OFF, 0), vm.console.last_lines()
        run = vm.run.path
    assert disk.read_bytes() == content
    assert not list(run.glob("*.qcow2"))
