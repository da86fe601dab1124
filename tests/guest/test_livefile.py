# SPDX-License-Identifier: GPL-2.0-or-later
"""A restricted file under a live Debian kernel: what is done to pages it does not use harms nothing."""

import random

import pytest

from cvmlab.generations.engine import emulate
from cvmlab.generations.host.live_file import LiveFile
from cvmlab.generations.vms.exits import VmType
from cvmlab.generations.vms.kvm import Kvm
from cvmlab.images.boot_files import resolve
from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.vm.outcome import End
from cvmlab.vm.vm import Vm
from tests.guest.test_upgrade import DEADLINE_S
from tests.guest.workload import work


pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("state_home")]

MEMORY = 512 << 20
UNUSED = range(400 << 20, 500 << 20, PAGE_SIZE)  # the kernel is told to keep away from it
ROUNDS = 200


@pytest.mark.timeout(400)
async def test_pages_come_and_go_beside_a_kernel_at_work() -> None:
    kvm = emulate(generation="F")
    assert isinstance(kvm, Kvm)
    fd = kvm.create_vm(VmType.SW_PROTECTED).create_guest_memfd(MEMORY, 1)
    guest = resolve("debian", exec_command=work(3, 8))
    vm = Vm(
        kernel=guest.kernel, initrd=guest.initrd, append=f"{guest.append} mem=384M", memory="512M",
        private_file=fd,
    )  # fmt: skip
    async with vm:
        file = LiveFile(fd)
        await file.bind(vm)
        await vm.wait_for("pass 1: 0 bad", timeout_s=DEADLINE_S)
        dice = random.Random(5)
        for _ in range(ROUNDS):
            page = dice.choice(UNUSED)
            match dice.randrange(3):
                case 0:
                    await file.punch(page, PAGE_SIZE)
                case 1:
                    await file.convert(page, PAGE_SIZE, "shared")
                case 2:
                    await file.convert(page, PAGE_SIZE, "private")
        outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
        assert (outcome.end, outcome.guest_status) == (End.POWERED_OFF, 0), vm.console.last_lines()
        assert vm.pages.counters()["to_shared"] > 0
        await file.unbind(vm)
    fd.close()
