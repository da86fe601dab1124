# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices that touch private memory of the bare-metal guest, under each policy."""

import secrets

import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Actor, Kind, Verdict
from cvmlab.memory.states import PageState
from tests.qemu.bare_machine import EDU, EDU_BUFFER, BareMachine, Event, page
from tests.qemu.conftest import Boot


pytestmark = pytest.mark.qemu

PENDING, PRIVATE, SHARED = PageState.PENDING, PageState.PRIVATE, PageState.SHARED
PROFILES = ["generic", "sw-protected"]
FWCFG_SELECT_READ = 8 | 2  # of item 0, the signature
FWCFG_ERROR = 1
SIGNATURE = b"QEMU"
SIZE = 32


def denied(
    gpa: int, device: str, state: PageState, *, write: bool, verdict: Verdict = Verdict.DENY
) -> Event:
    return Event(
        Kind.HOST_FAULT, gpa, actor=Actor.DEVICE, device=device,
        before=state, after=state, verdict=verdict, write=write,
    )  # fmt: skip


def anonymous(events: list[Event]) -> list[Event]:
    """Leave out who made the device run: an edu transfer is a timer's, fw_cfg's a vCPU's."""
    fields = {"vcpu": None, "rip": None}
    return [Event(**{**{f: getattr(e, f) for f in e.__slots__}, **fields}) for e in events]


def edu_read(vm: BareMachine, gpa: int, scratch: int) -> bytes:
    """Return what edu got when it read SIZE bytes at *gpa*; *scratch* is a shared page."""
    vm.guest.done("edu-dma", gpa, EDU_BUFFER, SIZE)
    vm.guest.done("edu-dma", EDU_BUFFER, scratch, SIZE)
    return vm.guest.read_bytes(scratch, SIZE)


@pytest.mark.parametrize("coco", PROFILES)
class TestDeny:
    async def test_a_device_reads_zeros_from_a_private_page(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            secret = secrets.token_bytes(SIZE)
            await vm.convert("shared", page(1))
            vm.guest.write_bytes(page(0), secret)
            vm.guest.write_bytes(page(1), b"\xff" * SIZE)
            # What the device has of its own must not be taken for an answer.
            vm.guest.done("edu-dma", page(1), EDU_BUFFER, SIZE)
            await vm.events()
            assert edu_read(vm, page(0), page(1)) == bytes(SIZE)
            events = await vm.events()
            assert anonymous(events) == [denied(page(0), EDU, PRIVATE, write=False)]
            assert vm.state(page(0)) is PRIVATE

    async def test_a_device_write_to_a_private_page_is_dropped(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            secret = secrets.token_bytes(SIZE)
            vm.guest.write_bytes(page(0), secret)
            await vm.events()
            before = (await vm.counters())["host-faults"]
            vm.guest.done("edu-dma", EDU_BUFFER, page(0) + 64, SIZE)
            vm.guest.done("edu-dma", EDU_BUFFER, page(0), SIZE)
            # Once a page, actor and direction.
            assert anonymous(await vm.events()) == [denied(page(0) + 64, EDU, PRIVATE, write=True)]
            assert vm.guest.read_bytes(page(0), SIZE) == secret
            assert (await vm.counters())["host-faults"] == before + 1

    async def test_a_device_does_not_accept_a_pending_page(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            await vm.events()
            vm.guest.done("edu-dma", EDU_BUFFER, page(0), SIZE)
            assert anonymous(await vm.events()) == [denied(page(0), EDU, PENDING, write=True)]
            assert vm.state(page(0)) is PENDING

    async def test_a_transfer_over_two_pages_is_judged_by_page(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            await vm.convert("shared", page(0), page(2))
            vm.guest.done("fill", page(0), PAGE_SIZE, 0x5A)
            vm.guest.done("edu-dma", page(0), EDU_BUFFER, SIZE)
            vm.guest.done("write", page(1), 0x5EC)
            await vm.events()
            vm.guest.done("edu-dma", EDU_BUFFER, page(1) - 16, SIZE)
            assert anonymous(await vm.events()) == [denied(page(1), EDU, PRIVATE, write=True)]
            assert vm.guest.read_bytes(page(1) - 16, 16) == b"\x5a" * 16
            assert vm.guest.value("read", page(1)) == 0x5EC

    async def test_a_shared_page_is_the_devices_too(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            await vm.convert("shared", page(0), page(1))
            message = secrets.token_bytes(SIZE)
            vm.guest.write_bytes(page(0), message)
            await vm.events()
            assert edu_read(vm, page(0), page(1)) == message
            assert await vm.events() == []

    async def test_after_conversion_to_private_the_device_is_out(
        self, boot: Boot, coco: str
    ) -> None:
        async with boot(coco=coco) as vm:
            await vm.convert("shared", page(0), page(1))
            vm.guest.write_bytes(page(0), b"\x11" * SIZE)
            assert edu_read(vm, page(0), page(1)) == b"\x11" * SIZE
            await vm.convert("private", page(0))
            vm.guest.write_bytes(page(0), b"\x22" * SIZE)
            await vm.events()
            assert edu_read(vm, page(0), page(1)) == bytes(SIZE)
            assert anonymous(await vm.events()) == [denied(page(0), EDU, PRIVATE, write=False)]


@pytest.mark.parametrize("coco", PROFILES)
class TestFirmwareConfiguration:
    """fw_cfg is the trusted loader until the launch is over, and a device from then on."""

    async def test_data_for_a_private_page_is_denied(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            await vm.convert("shared", page(1))
            vm.guest.done("write", page(0), 0x5EC)
            vm.guest.done("write", page(1), 0)
            await vm.events()
            control = vm.guest.value("fwcfg-dma", FWCFG_SELECT_READ, 4, page(0) + 8, page(1))
            assert control == FWCFG_ERROR
            events = await vm.events()
            assert anonymous(events) == [denied(page(0) + 8, "fw_cfg", PRIVATE, write=True)]
            assert {(e.vcpu, e.rip) for e in events} == {(0, "do_fwcfg_dma")}
            assert vm.guest.read_bytes(page(0), 16) == (0x5EC).to_bytes(16, "little")

    async def test_a_request_in_a_private_page_is_not_even_read(
        self, boot: Boot, coco: str
    ) -> None:
        async with boot(coco=coco) as vm:
            await vm.convert("shared", page(1))
            vm.guest.run("touch", page(0), 1)
            await vm.events()
            control = vm.guest.value("fwcfg-dma", FWCFG_SELECT_READ, 4, page(1), page(0))
            assert control == FWCFG_SELECT_READ
            assert anonymous(await vm.events()) == [
                denied(page(0), "fw_cfg", PRIVATE, write=False),
                denied(page(0), "fw_cfg", PRIVATE, write=True),
            ]

    async def test_shared_pages_work(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            await vm.convert("shared", page(0), page(1))
            assert vm.guest.value("fwcfg-dma", FWCFG_SELECT_READ, 4, page(0), page(1)) == 0
            assert vm.guest.read_bytes(page(0), 8)[:4] == SIGNATURE


class TestOtherPolicies:
    async def test_share_converts_and_keeps_content(self, boot: Boot) -> None:
        async with boot(coco="generic", on_host_access="share") as vm:
            secret = secrets.token_bytes(SIZE)
            vm.guest.write_bytes(page(0), secret)
            vm.guest.run("touch", page(1), 1)
            await vm.events()
            assert edu_read(vm, page(0), page(1)) == secret
            assert anonymous(await vm.events()) == [
                shared_for(page(0), write=False), shared_for(page(1), write=True),
            ]  # fmt: skip
            assert vm.states(page(0), page(1)) == [SHARED, SHARED]
            (edu,) = [a for a in (await vm.info())["actors"] if a["id"] == EDU]
            assert (edu["faults"], edu["converted"]) == (0, 2)

    async def test_share_converts_a_pending_page_too(self, boot: Boot) -> None:
        async with boot(coco="generic", on_host_access="share") as vm:
            await vm.events()
            vm.guest.done("edu-dma", EDU_BUFFER, page(0), SIZE)
            assert anonymous(await vm.events()) == [shared_for(page(0), before=PENDING, write=True)]

    async def test_share_serves_firmware_configuration(self, boot: Boot) -> None:
        async with boot(coco="generic", on_host_access="share") as vm:
            assert vm.guest.value("fwcfg-dma", FWCFG_SELECT_READ, 4, page(0), page(1)) == 0
            assert vm.guest.read_bytes(page(0), 8)[:4] == SIGNATURE

    @pytest.mark.parametrize("coco", PROFILES)
    async def test_zero_reads_zeros_without_an_error(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco, on_host_access="zero") as vm:
            await vm.convert("shared", page(1))
            vm.guest.write_bytes(page(0), b"\x77" * SIZE)
            await vm.events()
            assert edu_read(vm, page(0), page(1)) == bytes(SIZE)
            control = vm.guest.value("fwcfg-dma", FWCFG_SELECT_READ, 4, page(0), page(1))
            assert control == 0
            assert vm.guest.read_bytes(page(0), SIZE) == b"\x77" * SIZE
            assert anonymous(await vm.events()) == [
                denied(page(0), EDU, PRIVATE, write=False, verdict=Verdict.ZERO),
                denied(page(0), "fw_cfg", PRIVATE, write=True, verdict=Verdict.ZERO),
            ]

    @pytest.mark.parametrize("coco", PROFILES)
    async def test_stop_pauses_the_vm(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco, on_host_access="stop") as vm:
            vm.guest.write_bytes(page(0), b"\x77" * SIZE)
            await vm.events()
            with vm.qmp.events() as stream:
                vm.guest.start("edu-dma", EDU_BUFFER, page(0), SIZE)
                while (await anext(stream)).name != "STOP":
                    pass
            assert anonymous(await vm.events()) == [
                denied(page(0), EDU, PRIVATE, write=True, verdict=Verdict.STOP)
            ]
            assert (await vm.qmp.execute("query-status"))["status"] == "paused"
            await vm.qmp.execute("cont")
            assert vm.guest.finish() == ()
            assert vm.guest.read_bytes(page(0), SIZE) == b"\x77" * SIZE

    async def test_the_policy_can_change_while_the_guest_runs(self, boot: Boot) -> None:
        async with boot(coco="generic") as vm:
            vm.guest.write_bytes(page(0), b"\x77" * SIZE)
            await vm.events()
            for policy in ("zero", "share"):
                await vm.qmp.execute(
                    "restricted-memory-set-policy", {"id": "ram0", "policy": policy}
                )
                vm.guest.done("edu-dma", page(0), EDU_BUFFER, SIZE)
            kinds = [(e.kind, e.verdict) for e in await vm.events()]
            assert kinds == [
                (Kind.POLICY, Verdict.ZERO), (Kind.HOST_FAULT, Verdict.ZERO),
                (Kind.POLICY, Verdict.SHARE), (Kind.CONVERT, Verdict.SHARE),
            ]  # fmt: skip


def shared_for(gpa: int, *, before: PageState = PRIVATE, write: bool) -> Event:
    return Event(
        Kind.CONVERT, gpa, actor=Actor.DEVICE, device=EDU,
        before=before, after=SHARED, verdict=Verdict.SHARE, write=write,
    )  # fmt: skip


@pytest.mark.parametrize("coco", PROFILES)
async def test_the_secret_is_in_no_file_of_the_host(boot: Boot, coco: str) -> None:
    async with boot(coco=coco) as vm:
        secret = secrets.token_bytes(SIZE)
        await vm.convert("shared", page(1))
        vm.guest.write_bytes(page(0), secret)
        edu_read(vm, page(0), page(1))
        vm.guest.run("fwcfg-dma", FWCFG_SELECT_READ, 4, page(0), page(1))
        for gpa in (page(1), page(0) + PAGE_SIZE // 2):
            assert secret not in vm.guest.read_bytes(gpa, 64)
        if vm.files.fds.shared is not None:
            whole = vm.in_file(vm.files.fds.shared, 0, vm.spec.memory_bytes)
            assert secret not in whole
        assert vm.in_file(vm.files.fds.private, page(0), SIZE) == secret


class TestBlocks:
    """The guard remembers what a block of 1 MiB is, for as long as no state changes."""

    async def test_a_block_that_is_no_longer_shared_is_closed_from_its_first_private_page(
        self, boot: Boot
    ) -> None:
        async with boot(coco="generic") as vm:
            await vm.convert("shared", page(0), count=256)
            vm.guest.done("edu-dma", page(0) + 0x800, EDU_BUFFER, 0x1000)
            await vm.events()
            for closed in (page(1), page(0)):
                await vm.convert("private", closed)
                vm.guest.done("edu-dma", page(0) + 0x800, EDU_BUFFER, 0x1000)
                faults = [e.gpa for e in await vm.events() if e.kind is Kind.HOST_FAULT]
                assert [gpa & ~0xFFF for gpa in faults] == [closed]
                await vm.convert("shared", closed)  # the control: it opens again
                vm.guest.done("edu-dma", page(0) + 0x800, EDU_BUFFER, 0x1000)
                assert not [e for e in await vm.events() if e.kind is Kind.HOST_FAULT]

    async def test_blocks_that_share_a_place_in_its_memory_are_told_apart(self, boot: Boot) -> None:
        far = 128 << 20  # as far apart as it remembers blocks
        async with boot(coco="generic", memory_bytes=256 << 20) as vm:
            await vm.convert("shared", page(0), count=256)
            await vm.convert("shared", page(0) + far)
            for start in (page(0), page(0) + far) * 2:
                vm.guest.done("edu-dma", start + 0x800, EDU_BUFFER, 0x1000)
            faults = [e.gpa for e in await vm.events() if e.kind is Kind.HOST_FAULT]
            assert {gpa & ~0xFFF for gpa in faults} == {page(1) + far}
