# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's own breakpoints: they raise #DB in the guest, and end no QEMU (the series, patch 25)."""

import pytest

from tests.qemu.conftest import Boot, MakeVm


pytestmark = [pytest.mark.qemu, pytest.mark.fault("Q11")]

VECTOR_UD = 6
DR6_REGISTER_0 = 1
DEADLINE_S = 20.0


@pytest.mark.parametrize("coco", ["generic", "tdx", "sev-es", "sev-snp"])
async def test_a_watchpoint_on_the_stack_of_an_exception(boot: Boot, coco: str) -> None:
    """The exception is delivered, and then #DB for the write of its frame; each time again."""
    async with boot(coco=coco) as vm:
        for _ in range(3):
            answer = vm.guest.run("watch-frame")
            assert isinstance(answer, tuple)
            vector, status, _watched = answer
            assert (vector, status & 0xF) == (VECTOR_UD, DR6_REGISTER_0)
        assert vm.guest.value("ping") == 0


async def test_the_same_without_restricted_memory(churning: MakeVm) -> None:
    """It is a fault of stock QEMU."""
    async with churning(coco="off", append="-- watch-frame;watch-frame;off;--") as vm:
        outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
    assert outcome.exit_code == 0, outcome
