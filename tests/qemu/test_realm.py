# SPDX-License-Identifier: GPL-2.0-or-later
"""Every call of a realm, every RIPAS, and what each wrong touch of memory is for the guest.

Longer than 400 lines: a table of calls, and all tests that share the realm's QEMU.
"""

import asyncio
import hashlib
import os
import shutil
import struct
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Kind
from cvmlab.memory.states import PageState
from cvmlab.qemu.build import install
from cvmlab.qemu.recipe import Flavour
from tests.qemu.bare import Fault
from tests.qemu.realm import (
    ACCEPT,
    AREA,
    CHANGE_DESTROYED,
    DATA_ABORT,
    DESTROYED,
    EA,
    EMPTY,
    ERROR_INPUT,
    ERROR_STATE,
    ERROR_UNKNOWN,
    EXTERNAL_ABORT,
    EXTERNAL_ABORT_ON_WALK_3,
    FEATURES,
    FETCH_ABORT,
    HOST_CALL,
    INCOMPLETE,
    MEASUREMENT_EXTEND,
    MEASUREMENT_READ,
    NOT_SUPPORTED,
    RAM,
    RAM_BASE,
    REALM_CONFIG,
    REJECT,
    RSI,
    RSI_1_0,
    SHARED,
    STATE_GET,
    STATE_SET,
    STATUS,
    SUCCESS,
    TOKEN_CONTINUE,
    TOKEN_INIT,
    UART,
    VERSION,
    WRITE,
    Realm,
    build,
    page,
)  # fmt: skip


# The build comes first: minutes, from nothing.
pytestmark = [pytest.mark.qemu, pytest.mark.long, pytest.mark.timeout(3600)]

Boot = Callable[..., AbstractAsyncContextManager[Realm]]
TOP = SHARED
SMCCC_VERSION, SMCCC_FEATURES, PSCI_FEATURES = 0x8000_0000, 0x8000_0001, 0x8400_000A
PLANE_ENTER = RSI + 0x1A3  # RMM 1.1 and later
EDU = "edu,id=edu0,dma_mask=0xffffffffffffffff"
EDU_BUFFER = 0x40000
CHALLENGE = tuple(range(0x10, 0x18))


@pytest.fixture(scope="module")
def emulator() -> Path:
    """Return the emulator; it is built the first time."""
    given = os.environ.get("CVMLAB_QEMU_AARCH64")
    return Path(given) if given else install(Flavour.TARGETS) / "bin" / "qemu-system-aarch64"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bare-metal guest."""
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("there is no aarch64-linux-gnu-gcc (gcc-aarch64-linux-gnu)")
    return build(tmp_path_factory.mktemp("bare-arm"))


@pytest.fixture
def boot(emulator: Path, kernel: Path, tmp_path: Path) -> Boot:
    """Return a function that boots the guest: ``async with boot(profile="cca")``."""
    return lambda **options: Realm.start(emulator, kernel, tmp_path, **options)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ((VERSION, RSI_1_0), (SUCCESS, RSI_1_0, RSI_1_0)),
        ((VERSION, 0x20000), (ERROR_INPUT, RSI_1_0, RSI_1_0)),
        ((VERSION, 0), (ERROR_INPUT, RSI_1_0, RSI_1_0)),
        ((FEATURES, 0), (SUCCESS, 0)),
        ((FEATURES, 77), (SUCCESS, 0)),
        ((MEASUREMENT_READ, 5), (ERROR_INPUT,)),
        ((MEASUREMENT_EXTEND, 0, 8), (ERROR_INPUT,)),
        ((MEASUREMENT_EXTEND, 5, 8), (ERROR_INPUT,)),
        ((MEASUREMENT_EXTEND, 1, 65), (ERROR_INPUT,)),
        ((TOKEN_CONTINUE, page(0), 0, PAGE_SIZE), (ERROR_STATE,)),
        ((REALM_CONFIG, page(0) + 8), (ERROR_INPUT,)),
        ((REALM_CONFIG, SHARED | page(0)), (ERROR_INPUT,)),
        ((REALM_CONFIG, UART), (ERROR_INPUT,)),
        ((STATE_SET, page(0) + 1, page(1), EMPTY), (ERROR_INPUT,)),
        ((STATE_SET, page(0), page(1) + 1, EMPTY), (ERROR_INPUT,)),
        ((STATE_SET, page(1), page(1), EMPTY), (ERROR_INPUT,)),
        ((STATE_SET, page(1), page(0), EMPTY), (ERROR_INPUT,)),
        ((STATE_SET, page(0), page(1), DESTROYED), (ERROR_INPUT,)),
        ((STATE_SET, page(0), TOP + PAGE_SIZE, EMPTY), (ERROR_INPUT,)),
        ((STATE_GET, page(0), page(0)), (ERROR_INPUT,)),
        ((STATE_GET, page(0) + 8, page(1)), (ERROR_INPUT,)),
        ((STATE_GET, page(0), TOP + PAGE_SIZE), (ERROR_INPUT,)),
        ((HOST_CALL, page(0) + 128), (ERROR_INPUT,)),
        ((HOST_CALL, SHARED | page(0)), (ERROR_INPUT,)),
        ((PLANE_ENTER, page(0)), (NOT_SUPPORTED,)),
        ((RSI + 0x19A, 0), (NOT_SUPPORTED,)),
        ((0x8400_0190, RSI_1_0), (NOT_SUPPORTED,)),
        ((SMCCC_VERSION,), (0x10002,)),
        ((SMCCC_FEATURES, SMCCC_VERSION), (0,)),
        ((SMCCC_FEATURES, SMCCC_FEATURES), (0,)),
        ((SMCCC_FEATURES, 0x8000_8000), (NOT_SUPPORTED,)),
        ((PSCI_FEATURES, SMCCC_VERSION), (0,)),
        ((0x8400_0000,), (0x10001,)),  # PSCI_VERSION: still QEMU's
    ],
)
async def test_what_each_call_answers_at_once(
    boot: Boot, call: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    async with boot() as realm:
        assert realm.smc(*call).x[: len(expected)] == expected


async def test_the_configuration_is_what_the_object_has(boot: Boot) -> None:
    value = "A" * 85 + "A=="  # 64 zero bytes
    guest = (f"personalization-value={value}", "measurement-algorithm=sha256")
    async with boot(guest=guest) as realm:
        assert realm.smc(REALM_CONFIG, page(0)).status == SUCCESS
        config = realm.guest.read_bytes(page(0), 0x240)
    assert struct.unpack_from("<QB", config) == (48, 0)
    assert config[0x200:] == bytes(64)


@pytest.mark.parametrize(("cpu", "bits"), [("max", 48), ("cortex-a57", 44), ("cortex-a53", 40)])
async def test_the_top_bit_is_that_of_the_cpu(boot: Boot, cpu: str, bits: int) -> None:
    async with boot(cpu=cpu) as realm:
        _, width, algorithm = realm.guest.run("config")  # type: ignore[misc]
        assert (width, algorithm) == (bits, 1)
        realm.share(page(0))
        realm.guest.done("write", 1 << (bits - 1) | page(0), 7)


async def test_ram_is_ram_and_becomes_empty_and_ram_again(boot: Boot) -> None:
    async with boot() as realm:
        guest = realm.guest
        guest.done("write", page(0), 0x1234)
        assert (realm.ripas(page(0)), realm.state(page(0))) == (RAM, PageState.PRIVATE)
        assert (realm.ripas(page(1)), realm.state(page(1))) == (RAM, PageState.PENDING)
        realm.share(page(0), 2)
        assert [realm.ripas(page(i)) for i in range(3)] == [EMPTY, EMPTY, RAM]
        assert guest.value("read", SHARED | page(0)) == 0
        guest.done("write", SHARED | page(0), 0x5678)
        assert realm.set_ripas(page(0), 2, RAM).x[:3] == (SUCCESS, page(2), ACCEPT)
        assert guest.value("read", page(0)) == 0
        counters = (await realm.info())["counters"]
        assert (counters["to-shared"], counters["to-private"]) == (2, 2)


async def test_state_get_names_the_whole_stretch(boot: Boot) -> None:
    async with boot() as realm:
        realm.guest.done("write", page(1), 1)  # pending and private are both RAM
        realm.share(page(4))
        assert realm.smc(STATE_GET, page(0), page(8)).x[:3] == (SUCCESS, page(4), RAM)
        assert realm.smc(STATE_GET, page(4), page(8)).x[:3] == (SUCCESS, page(5), EMPTY)
        assert realm.smc(STATE_GET, 0, RAM_BASE).x[:3] == (SUCCESS, RAM_BASE, EMPTY)
        end = RAM_BASE + (64 << 20)
        assert realm.smc(STATE_GET, end, TOP).x[:3] == (SUCCESS, TOP, EMPTY)


def syndrome(fault: Fault) -> tuple[int, int]:
    """Return class and status of an abort, which must say that it was external."""
    assert fault.error & EA
    return fault.vector, fault.error & STATUS


async def test_a_wrong_touch_is_an_external_abort(boot: Boot) -> None:
    async with boot() as realm:
        guest = realm.guest
        realm.share(page(0))
        wrong: list[tuple[str, tuple[int, ...], int]] = [
            ("read", (page(0),), DATA_ABORT),  # EMPTY
            ("write", (page(0), 1), DATA_ABORT),
            ("exec", (0, page(0)), FETCH_ABORT),
            ("read", (UART,), DATA_ABORT),  # a device without the bit
            ("read", (SHARED | page(1),), DATA_ABORT),  # RAM, with the bit
            ("exec", (SHARED | page(0), SHARED | page(0)), FETCH_ABORT),  # never executed
        ]
        realm.records()
        for name, arguments, kind in wrong:
            fault = guest.fault(name, *arguments)
            assert syndrome(fault) == (kind, EXTERNAL_ABORT), name
            assert bool(fault.error & WRITE) == (name == "write")
            assert fault.cr2 == arguments[1 if name == "exec" else 0]
        records = realm.records()
        faults = records[records["kind"] == Kind.GUEST_FAULT]
        assert [int(gpa) for gpa in faults["gpa"]] == [
            page(0), page(0), page(0), UART, page(1), page(0),
        ]  # fmt: skip
        assert realm.state(page(1)) is PageState.PENDING


async def test_a_page_table_that_is_empty_aborts_the_walk_at_its_level(boot: Boot) -> None:
    table, area = page(0), AREA + (4 << 20)
    async with boot() as realm:
        guest = realm.guest
        guest.done("map", table, area, SHARED)
        guest.done("write", area, 0xABCD)
        realm.share(table)
        guest.done("flush")
        fault = guest.fault("read", area)
        assert syndrome(fault) == (DATA_ABORT, EXTERNAL_ABORT_ON_WALK_3)
        fault = guest.fault("exec", 0, area)
        assert syndrome(fault) == (FETCH_ABORT, EXTERNAL_ABORT_ON_WALK_3)


async def test_what_the_host_destroys_stops_the_realm_until_it_asks_for_new_ram(
    boot: Boot,
) -> None:
    async with boot() as realm:
        guest = realm.guest
        guest.done("write", page(1), 0x77)
        await realm.change("discard", page(1))
        assert realm.ripas(page(1)) == DESTROYED
        # RMM, A5.4: without the flag the change ends there, and the host has to reject.
        assert realm.set_ripas(page(0), 3, RAM).x[:3] == (SUCCESS, page(1), REJECT)
        assert realm.set_ripas(page(1), 1, EMPTY).x[:3] == (SUCCESS, page(1), ACCEPT)
        changed = realm.set_ripas(page(0), 3, RAM, CHANGE_DESTROYED)
        assert changed.x[:3] == (SUCCESS, page(3), ACCEPT)
        assert guest.value("read", page(1)) == 0
        await realm.change("discard", page(1))
        with realm.qmp.events() as stream:
            guest.start("read", page(1))
            async with asyncio.timeout(10):
                async for event in stream:
                    if event.name == "RESTRICTED_MEMORY_STOPPED":
                        break
        assert "DESTROYED" in (await realm.info())["stopped"]["text"]


async def test_memory_that_is_none_is_no_ram(boot: Boot) -> None:
    end = RAM_BASE + (64 << 20)
    async with boot() as realm:
        answer = realm.set_ripas(end - PAGE_SIZE, 2, RAM)
        assert answer.x[:3] == (SUCCESS, end, REJECT)
        answer = realm.set_ripas(end, 2, EMPTY)
        assert answer.x[:3] == (SUCCESS, end + 2 * PAGE_SIZE, ACCEPT)


async def test_a_host_may_refuse_and_put_off(boot: Boot) -> None:
    async with boot(guest=("ripas-refuse=on",)) as realm:
        assert realm.set_ripas(page(0), 2, RAM).x[:3] == (SUCCESS, page(0), REJECT)
        assert realm.set_ripas(page(0), 2, EMPTY).x[:3] == (SUCCESS, page(0), ACCEPT)
        assert realm.ripas(page(0)) == RAM
    async with boot(guest=("ripas-max=8K", "ripas-retry=1")) as realm:
        steps = []
        at = page(0)
        while at != page(3):
            answer = realm.smc(STATE_SET, at, page(3), EMPTY, 0)
            assert answer.x[::2][:2] == (SUCCESS, ACCEPT)
            at = answer.x[1]
            steps.append(at)
        assert steps == [page(0), page(2), page(2), page(3)]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_measurements(boot: Boot, algorithm: str) -> None:
    size = hashlib.new(algorithm).digest_size

    def measurement(realm: Realm, index: int) -> bytes:
        answer = realm.smc(MEASUREMENT_READ, index)
        assert answer.status == SUCCESS
        return struct.pack("<8Q", *answer.x[1:9])

    rims = []
    for _ in range(2):
        async with boot(guest=(f"measurement-algorithm={algorithm}",)) as realm:
            rims.append(measurement(realm, 0))
            assert [measurement(realm, i) for i in range(1, 5)] == [bytes(64)] * 4
            value = struct.pack("<8Q", *CHALLENGE)
            assert realm.smc(MEASUREMENT_EXTEND, 2, 20, *CHALLENGE).status == SUCCESS
            expected = hashlib.new(algorithm, bytes(size) + value[:20]).digest()
            assert measurement(realm, 2) == expected.ljust(64, b"\0")
            assert measurement(realm, 1) == bytes(64)
    assert rims[0] == rims[1]
    assert rims[0][:size].strip(b"\0")
    assert rims[0][size:] == bytes(64 - size)


async def test_a_token_comes_in_pieces_and_says_that_it_is_fake(boot: Boot) -> None:
    async with boot() as realm:
        init = realm.smc(TOKEN_INIT, *CHALLENGE)
        assert init.status == SUCCESS
        assert 0 < init.x[1] <= 1 << 20
        assert realm.smc(TOKEN_CONTINUE, page(0), PAGE_SIZE, 0).status == ERROR_INPUT
        assert realm.smc(TOKEN_CONTINUE, page(0), 8, PAGE_SIZE).status == ERROR_INPUT
        token = b""
        status = INCOMPLETE
        while status == INCOMPLETE:
            answer = realm.smc(TOKEN_CONTINUE, page(0), 16, 64)
            status = answer.status
            size = answer.x[1]
            token += realm.guest.read_bytes(page(0) + 16, 64)[:size]
        assert status == SUCCESS
        assert b"emulated, not authentic" in token
        assert struct.pack("<8Q", *CHALLENGE) in token
        assert token[:3] == b"\xd9\x01\x8f"  # tag 399: a CCA token
        assert realm.smc(TOKEN_CONTINUE, page(0), 0, 64).status == ERROR_STATE


class TokenService:
    """A service that answers each request when it is told to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: asyncio.Queue[bytes] = asyncio.Queue()
        self.may_answer = asyncio.Event()
        self.token = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        (size,) = struct.unpack(">I", await reader.readexactly(4))
        await self.requests.put(await reader.readexactly(size))
        await self.may_answer.wait()
        writer.write(struct.pack(">I", len(self.token)) + self.token)
        await writer.drain()
        writer.close()


@pytest.mark.parametrize("token", [bytes(range(256)) * 2, b""])
async def test_a_token_of_the_service_is_awaited(boot: Boot, tmp_path: Path, token: bytes) -> None:
    service = TokenService(tmp_path / "tokens.sock")
    service.token = token
    server = await asyncio.start_unix_server(service.serve, service.path)
    async with server, boot(token_socket=service.path) as realm:
        rim = struct.pack("<8Q", *realm.smc(MEASUREMENT_READ, 0).x[1:9])
        assert realm.smc(TOKEN_INIT, *CHALLENGE).status == SUCCESS
        assert realm.smc(TOKEN_CONTINUE, page(0), 0, PAGE_SIZE).x[:2] == (INCOMPLETE, 0)
        request = await asyncio.wait_for(service.requests.get(), 10)
        assert (request[:8], request[8]) == (b"cvmlcca1", 1)
        assert request[16:80] == struct.pack("<8Q", *CHALLENGE)
        assert request[80:144] == bytes(64)
        assert request[144:] == rim + bytes(4 * 64)
        service.may_answer.set()
        got = b""
        status = INCOMPLETE
        async with asyncio.timeout(10):
            while status == INCOMPLETE:
                await asyncio.sleep(0.01)
                answer = realm.smc(TOKEN_CONTINUE, page(0), 0, 200)
                status = answer.status
                size = answer.x[1] if status in (SUCCESS, INCOMPLETE) else 0
                got += realm.guest.read_bytes(page(0), -size % 8 + size)[:size]
        assert (status, got) == (SUCCESS if token else ERROR_UNKNOWN, token)
        assert realm.smc(TOKEN_CONTINUE, page(0), 0, 64).status == ERROR_STATE


async def test_a_host_call_is_an_event(boot: Boot) -> None:
    async with boot() as realm:
        guest = realm.guest
        guest.done("write", page(0), 0x1234)
        for register in range(31):
            guest.done("write", page(0) + 8 + 8 * register, 0x100 + register)
        with realm.qmp.events() as stream:
            assert realm.smc(HOST_CALL, page(0)).status == SUCCESS
            async with asyncio.timeout(10):
                async for event in stream:
                    if event.name == "RESTRICTED_MEMORY_HOST_CALL":
                        break
        data = event.data
        assert (data["immediate"], data["vcpu"], data["untold"]) == (0x1234, 0, 0)
        assert data["registers"] == [0x100 + register for register in range(31)]
        assert guest.value("read", page(0) + 8) == NOT_SUPPORTED
        assert guest.value("read", page(0) + 16) == 0x101


async def test_a_reset_is_a_fresh_launch(boot: Boot) -> None:
    async with boot() as realm:
        rim = realm.smc(MEASUREMENT_READ, 0).x
        realm.share(page(0), 4)
        realm.smc(MEASUREMENT_EXTEND, 1, 8, 1)
        await realm.qmp.execute("system_reset")
        realm.guest.wait_hello()
        assert realm.ripas(page(0)) == RAM
        assert realm.smc(MEASUREMENT_READ, 0).x[:9] == rim[:9]
        assert realm.smc(MEASUREMENT_READ, 1).x[1:9] == (0,) * 8


async def test_a_realm_goes_back_in_time(boot: Boot) -> None:
    async with boot() as realm:
        guest, moment = realm.guest, {"id": "ram0", "name": "before"}
        guest.done("write", page(0), 7)
        realm.smc(MEASUREMENT_EXTEND, 1, 8, 5)
        measured = realm.smc(MEASUREMENT_READ, 1).x
        await realm.qmp.execute("stop")
        await realm.qmp.execute("restricted-memory-checkpoint", moment)
        await realm.qmp.execute("cont")
        guest.done("write", page(0), 8)
        realm.share(page(1), 4)
        realm.smc(MEASUREMENT_EXTEND, 1, 8, 5)
        await realm.qmp.execute("stop")
        await realm.qmp.execute("restricted-memory-rewind", moment)
        await realm.qmp.execute("cont")
        assert (guest.value("read", page(0)), realm.ripas(page(1))) == (7, RAM)
        assert realm.smc(MEASUREMENT_READ, 1).x == measured


@pytest.mark.parametrize("bit", [0, SHARED])
async def test_a_device_reaches_what_is_shared_with_the_bit_and_without(
    boot: Boot, bit: int
) -> None:
    async with boot(options=("-device", EDU)) as realm:
        guest = realm.guest
        realm.share(page(0), 2)
        guest.done("write", SHARED | page(0), 0xFEED)
        guest.done("write", page(2), 0x5EC2E7)
        assert guest.value("edu-dma", bit | page(0), EDU_BUFFER, 8) == 1
        assert guest.value("edu-dma", EDU_BUFFER, bit | page(1), 8) == 1
        assert guest.value("read", SHARED | page(1)) == 0xFEED
        realm.records()
        guest.value("edu-dma", bit | page(2), EDU_BUFFER, 8)
        guest.value("edu-dma", EDU_BUFFER, bit | page(1), 8)
        assert guest.value("read", SHARED | page(1)) == 0
        faults = [record for record in realm.records() if record["kind"] == Kind.HOST_FAULT]
        assert [int(record["gpa"]) for record in faults] == [page(2)]
        actors = {actor["index"]: actor["id"] for actor in (await realm.info())["actors"]}
        assert actors[int(faults[0]["device"])] == "edu0"


async def test_a_guest_that_knows_nothing_has_private_memory(boot: Boot) -> None:
    async with boot(profile="generic") as realm:
        guest = realm.guest
        guest.done("write", page(0), 0x42)
        assert realm.state(page(0)) is PageState.PRIVATE
        await realm.change("convert", page(0), to="shared", content="preserve")
        assert (realm.state(page(0)), guest.value("read", page(0))) == (PageState.SHARED, 0x42)
        await realm.change("poison", page(0))
        assert syndrome(guest.fault("read", page(0))) == (DATA_ABORT, EXTERNAL_ABORT)
        hvc = guest.run("hvc", VERSION, RSI_1_0)
        assert isinstance(hvc, tuple)
        assert hvc[0] == NOT_SUPPORTED
