# SPDX-License-Identifier: GPL-2.0-or-later
"""The backend and the guest object of a running VM: all can be read, nothing can be set or deleted.

The properties are those that QEMU lists, so one that is added later is tried as well.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cvmlab.base.errors import CommandRefused
from cvmlab.profiles.guest_object import GUEST_ID
from cvmlab.qemu.build import rom_dirs
from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.plain import QmpRefusedError, machine, plain_qemu


pytestmark = pytest.mark.qemu

BACKEND, GUEST = "/objects/ram0", f"/objects/{GUEST_ID}"
PROFILES = ["generic", "sw-protected", "tdx", "sev", "sev-es", "sev-snp"]
IN_USE, NOT_WRITABLE, NOT_SET = "is in use by the guest", "is not writable", "is not set"
INET = {"type": "inet", "host": "127.0.0.1", "port": "1"}
VALUES: tuple[object, ...] = (True, False, 0, 1, 2**63 - 1, -1, "x", "", [], [1], {}, INET)


async def properties(vm: BareMachine, path: str) -> list[dict[str, str]]:
    listed = await vm.qmp.execute("qom-list", {"path": path})
    assert isinstance(listed, list)
    return listed


async def objects(vm: BareMachine) -> AsyncIterator[str]:
    """Yield the paths of our objects and of all that belongs to them."""
    paths = [BACKEND] if vm.spec.coco in PROFILES[:2] else [BACKEND, GUEST]
    while paths:
        path = paths.pop()
        yield path
        children = [p["name"] for p in await properties(vm, path) if p["type"].startswith("child<")]
        paths += [f"{path}/{name}" for name in children]


async def try_property(vm: BareMachine, path: str, name: str) -> object:
    """Read the property; try to set it to anything.  Return what was read."""
    where = {"path": path, "property": name}
    for value in VALUES:
        with pytest.raises(CommandRefused) as caught:
            await vm.qmp.execute("qom-set", {**where, "value": value})
        assert IN_USE in caught.value.message or NOT_WRITABLE in caught.value.message
    try:
        return await vm.qmp.execute("qom-get", where)
    except CommandRefused as error:
        assert NOT_SET in error.message  # noqa: PT017 - being refused is one of two right answers
        return None


async def everything(vm: BareMachine) -> dict[tuple[str, str], object]:
    return {
        (path, row["name"]): await try_property(vm, path, row["name"])
        async for path in objects(vm)
        for row in await properties(vm, path)
    }


@pytest.mark.fault("Q1", "Q2")
@pytest.mark.parametrize("coco", PROFILES)
async def test_every_property_can_be_read_and_none_can_be_set(boot: Boot, coco: str) -> None:
    async with boot(coco=coco) as vm:
        running = await everything(vm)
        assert {(BACKEND, "merge"), (BACKEND, "prealloc"), (BACKEND, "private-fd")} <= set(running)
        await vm.qmp.execute("stop")
        assert await everything(vm) == running
        await vm.qmp.execute("cont")
        vm.guest.done("write", page(0), 1)


@pytest.mark.fault("Q1", "Q2")
@pytest.mark.parametrize("coco", PROFILES)
async def test_nor_before_the_guest_runs(boot: Boot, coco: str) -> None:
    async with boot(coco=coco, cont=False) as vm:
        assert await everything(vm)


@pytest.mark.fault("Q2")
def test_nor_before_there_is_a_machine(patched_qemu: Path, tmp_path: Path) -> None:
    command = [*machine(patched_qemu, rom_dirs()), "-preconfig"]
    with plain_qemu(command, tmp_path) as qemu, qemu.qmp() as qmp:
        for name in ("merge", "dump", "prealloc", "size"):
            with pytest.raises(QmpRefusedError, match=IN_USE):
                qmp.command("qom-set", path=BACKEND, property=name, value=False)


@pytest.mark.fault("Q2")
async def test_an_object_that_nobody_uses_can_be_set(boot: Boot) -> None:
    async with boot(coco="generic") as vm:
        spare: dict[str, Any] = {"qom-type": "memory-backend-ram", "id": "spare", "size": 4096}
        await vm.qmp.execute("object-add", spare)
        where = {"path": "/objects/spare", "property": "dump"}
        await vm.qmp.execute("qom-set", {**where, "value": False})
        assert await vm.qmp.execute("qom-get", where) is False
        await vm.qmp.execute("object-del", {"id": "spare"})


@pytest.mark.fault("Q2", "Q3")
@pytest.mark.parametrize("coco", PROFILES)
async def test_they_cannot_be_deleted(boot: Boot, coco: str) -> None:
    names = ["ram0"] if coco in PROFILES[:2] else ["ram0", GUEST_ID]
    async with boot(coco=coco) as vm:
        for name in names:
            with pytest.raises(CommandRefused, match="is in use, can not be deleted"):
                await vm.qmp.execute("object-del", {"id": name})


@pytest.mark.fault("Q3")
@pytest.mark.parametrize(
    ("coco", "name"),
    [("tdx", "quote-generation-socket"), ("sev-snp", "guest-request-socket")],
)
async def test_the_socket_of_a_service_stays_what_it_was(
    boot: Boot, tmp_path: Path, coco: str, name: str
) -> None:
    where = {"path": GUEST, "property": name}
    async with boot(coco=coco, quote_socket=tmp_path / "q.sock") as vm:
        before = await vm.qmp.execute("qom-get", where)
        with pytest.raises(CommandRefused, match=IN_USE):
            await vm.qmp.execute("qom-set", {**where, "value": INET})
        assert await vm.qmp.execute("qom-get", where) == before
