# SPDX-License-Identifier: GPL-2.0-or-later
"""Who asks for a conversion that keeps content asks for access to private memory."""

import secrets
from pathlib import Path

import pytest

from cvmlab.base.errors import CommandRefused
from cvmlab.memory.records import Actor, Kind, Verdict
from cvmlab.memory.states import PageState
from tests.qemu.bare_machine import Event, page
from tests.qemu.conftest import Boot


pytestmark = pytest.mark.qemu

SPLIT = ["sw-protected", "tdx", "sev", "sev-es", "sev-snp"]


@pytest.mark.fault("L3")
@pytest.mark.parametrize("coco", SPLIT)
@pytest.mark.parametrize("to", ["shared", "private"])
async def test_it_is_refused_journaled_and_changes_nothing(
    boot: Boot, tmp_path: Path, coco: str, to: str
) -> None:
    secret = secrets.token_bytes(32)
    async with boot(coco=coco) as vm:
        vm.guest.write_bytes(page(0), secret)
        await vm.events()
        with pytest.raises(CommandRefused, match="content that is private cannot be kept"):
            await vm.convert(to, page(0), page(2), count=2, content="preserve")
        asked = Event(
            Kind.HOST_FAULT, page(0), 2, Actor.MONITOR, device="monitor",
            before=PageState.PRIVATE, after=PageState.PRIVATE,
            verdict=Verdict.DENY, write=to == "private",
        )  # fmt: skip
        first, second = await vm.events()
        assert (first, second.gpa, second.pages) == (asked, page(2), 2)
        assert vm.state(page(0)) is PageState.PRIVATE
        arguments = {"val": page(0), "size": 32, "filename": str(tmp_path / "taken")}
        with pytest.raises(CommandRefused, match="is private"):
            await vm.qmp.execute("pmemsave", arguments)
        assert secret not in (tmp_path / "taken").read_bytes()
        assert vm.guest.read_bytes(page(0), 32) == secret


@pytest.mark.parametrize("coco", SPLIT)
async def test_control_a_vm_for_debugging_keeps_it(boot: Boot, tmp_path: Path, coco: str) -> None:
    secret = secrets.token_bytes(32)
    async with boot(coco=coco, debuggable=True) as vm:
        vm.guest.write_bytes(page(0), secret)
        await vm.events()
        await vm.convert("shared", page(0), content="preserve")
        kinds = [(event.kind, event.verdict) for event in await vm.events()]
        assert kinds[0] == (Kind.HOST_FAULT, Verdict.ALLOW)
        assert [kind for kind, _ in kinds] == [Kind.HOST_FAULT, Kind.CONVERT]
        arguments = {"val": page(0), "size": 32, "filename": str(tmp_path / "taken")}
        await vm.qmp.execute("pmemsave", arguments)
        assert (tmp_path / "taken").read_bytes() == secret
