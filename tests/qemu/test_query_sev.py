# SPDX-License-Identifier: GPL-2.0-or-later
"""What QEMU says of an SEV guest is about this guest, not about KVM."""

import pytest

from cvmlab.base.errors import CommandRefused
from tests.qemu.conftest import Boot


pytestmark = [pytest.mark.qemu, pytest.mark.fault("F8")]

STARTED = {"sev": "launch-secret", "sev-es": "launch-secret", "sev-snp": "launch-update"}


@pytest.mark.parametrize("coco", STARTED)
async def test_the_guest_is_enabled_and_has_its_type_state_and_policy(
    boot: Boot, coco: str
) -> None:
    kind = "sev-snp" if coco == "sev-snp" else "sev"
    async with boot(coco=coco, cont=False) as vm:
        before = await vm.qmp.execute("query-sev")
        await vm.qmp.execute("cont")
        vm.guest.wait_hello()
        after = await vm.qmp.execute("query-sev")
        text = await vm.qmp.execute("human-monitor-command", {"command-line": "info sev"})
    assert (before["enabled"], before["sev-type"], before["state"]) == (True, kind, STARTED[coco])
    assert after == {**before, "state": "running"}
    policy = after["snp-policy" if kind == "sev-snp" else "policy"]
    assert bool(policy & 4) == (coco == "sev-es") or kind == "sev-snp"
    assert f"SEV type: {kind}\r\nstate: running\r\n" in text
    assert "debug: off" in text


@pytest.mark.parametrize("coco", ["tdx", "generic"])
async def test_another_guest_is_not_one(boot: Boot, coco: str) -> None:
    async with boot(coco=coco) as vm:
        if coco == "tdx":
            with pytest.raises(CommandRefused, match="not enabled"):
                await vm.qmp.execute("query-sev")
        else:
            assert (await vm.qmp.execute("query-sev"))["enabled"] is False


async def test_the_human_monitor_survives_the_question(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        answer = await vm.qmp.execute("human-monitor-command", {"command-line": "info sev"})
        assert answer == "SEV is not enabled\r\n"
