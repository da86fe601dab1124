# SPDX-License-Identifier: GPL-2.0-or-later
"""Services that run with a VM, on a port that a second VM cannot have, too."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from cvmlab.pki.pki_folder import save
from cvmlab.vm.vm import Vm
from tests.fakes.pkis import small_pki
from tests.qemu.test_upgrade import finish, passes
from tests.verifiers import get


pytestmark = [
    pytest.mark.qemu,
    pytest.mark.timeout(120),
    pytest.mark.usefixtures("state_home"),
]


async def test_forks_and_restored_vms_leave_the_port_to_the_first(
    churning: Callable[..., Vm], tmp_path: Path
) -> None:
    save(small_pki(), tmp_path / "pki")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    async with churning(coco="tdx", attest=tmp_path / "pki", attest_serve=port) as vm:
        await passes(vm)
        (child,) = await vm.fork()
        await vm.save("served")
        async with child, Vm.restore("served", qemu=vm.setting.qemu) as again:
            await passes(child)
            await passes(again)
            content, _ = await asyncio.to_thread(get, f"http://127.0.0.1:{port}/vcek/v1/Genoa/crl")
            assert content
            await finish(again)
            await finish(child)
        await finish(vm)
