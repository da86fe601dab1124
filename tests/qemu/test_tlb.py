# SPDX-License-Identifier: GPL-2.0-or-later
"""No CPU goes on using a page where it was, and nothing else leaves the TLBs."""

import re

import pytest

from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot


pytestmark = pytest.mark.qemu

FLUSHES = re.compile(r"TLB (?:full|partial) flushes +(\d+)")
AT = 77  # no page of the guest's own code and data is kept in the slot of this one
SAME_SLOT = AT + 4096  # as it is, by a TLB of at most so many entries


async def flushes(vm: BareMachine) -> int:
    text = await vm.qmp.execute("human-monitor-command", {"command-line": "info jit"})
    return sum(int(count) for count in FLUSHES.findall(str(text)))


@pytest.mark.parametrize("evicted", [False, True], ids=["in-its-slot", "in-the-victim-tlb"])
@pytest.mark.parametrize("to", ["shared", "private"])
async def test_a_store_goes_where_the_page_is(boot: Boot, to: str, evicted: bool) -> None:
    async with boot(coco="sw-protected") as vm:
        if to == "private":
            await vm.convert("shared", page(AT))
        vm.guest.done("write", page(AT), 1)
        if evicted:
            vm.guest.value("read", page(SAME_SLOT))
        await vm.convert(to, page(AT))
        vm.guest.done("write", page(AT), 2)
        assert vm.guest.value("read", page(AT)) == 2
        vm.assert_storage()


async def test_a_page_that_leaves_takes_no_other_with_it(boot: Boot) -> None:
    async with boot(coco="sw-protected") as vm:
        vm.guest.run("touch", page(AT), 2)
        before = await flushes(vm)
        await vm.convert("shared", page(AT))
        assert vm.guest.value("read", page(AT)) == 0
        assert await flushes(vm) == before
        await vm.convert("shared", page(0), page(1))  # control: several ranges flush all
        assert await flushes(vm) > before
