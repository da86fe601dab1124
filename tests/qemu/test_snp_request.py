# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest requests end to end: sealed by the guest, carried by QEMU, answered by the service."""

import asyncio
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cvmlab.attestation.guest_requests import answer, launch_of
from cvmlab.attestation.service_frames import read_frame, serve, write_frame
from cvmlab.attestation.snp_firmware import SnpGuest
from cvmlab.attestation.snp_report import Launch
from cvmlab.base.errors import VmExited
from tests.fakes.snp_guest import (
    INVALID_PARAM,
    KEY_REQUEST,
    OVERFLOW,
    key_request,
    opened,
    report_request,
    sealed,
)
from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.snp import (
    EXT_GUEST_REQUEST,
    GUEST_REQUEST,
    INVALID_INPUT,
    MALFORMED,
    SHARED_MAP,
    SNP,
    Answer,
    Ghcb,
    to_shared,
)  # fmt: skip


pytestmark = pytest.mark.qemu

REQUEST, RESPONSE, CERTIFICATES = page(0), page(1), page(2)
VMM_ERROR, INVALID_LENGTH = 0xFFFFFFFF << 32, 1 << 32
DATA = bytes(range(64))
HOST_DATA = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
POLICY = "policy=0xb0000"  # SMT, a debugger


@dataclass
class Responder:
    """The service, which also tells what it was told of each launch."""

    path: Path
    launches: list[Launch] = field(default_factory=list)


@asynccontextmanager
async def responder(path: Path) -> AsyncIterator[Responder]:
    told = Responder(path)

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.launches.append(launch_of(await read_frame(reader)))
        guest = SnpGuest(told.launches[-1])
        while True:
            await write_frame(writer, answer(guest, await read_frame(reader)))

    async with serve(path, attend):
        yield told


async def request(
    vm: BareMachine, ghcb: Ghcb, request_page: bytes, code: int = GUEST_REQUEST, **fields: int
) -> Answer:
    """Have the guest send *request_page*; the service runs meanwhile."""
    vm.guest.write_bytes(SHARED_MAP + REQUEST, request_page[:256])
    return await asyncio.to_thread(ghcb.exit, code, REQUEST, RESPONSE, **fields)


def start(vm: BareMachine) -> Ghcb:
    ghcb = Ghcb(vm.guest)
    for gpa in (REQUEST, RESPONSE, CERTIFICATES):
        to_shared(vm.guest, gpa)
    return ghcb


def response(vm: BareMachine) -> bytes:
    return vm.guest.read_bytes(SHARED_MAP + RESPONSE, 96 + 32 + 0x4A0)


async def test_a_report(boot: Boot, tmp_path: Path) -> None:
    options = {
        "quote_socket": tmp_path / "r.sock",
        "guest_options": (POLICY, f"host-data={HOST_DATA}"),
    }
    async with responder(tmp_path / "r.sock") as told, boot(**SNP, **options) as vm:
        ghcb = start(vm)
        # Its keys are not known before it has asked for the first time.
        assert (await request(vm, ghcb, bytes(4096))).status == (0, INVALID_PARAM)
        (launch,) = told.launches
        assert len(set(launch.vmpck)) == 4
        assert launch.measurement != bytes(48)
        page_ = sealed(report_request(DATA), key=launch.vmpck[0])
        assert (await request(vm, ghcb, page_)).status == (0, 0)
        kind, sequence, payload = opened(response(vm), 0, launch.vmpck[0])
        assert (kind, sequence) == (6, 2)
        made = payload[32:]
        assert made[0x50:0x90] == DATA
        assert struct.unpack_from("<Q", made, 8) == (0xB0000,)
        assert made[0x90:0xC0] == launch.measurement
        assert made[0xC0:0xE0] == bytes(range(32))
        assert made[0x140:0x160] == launch.report_id != bytes(32)
        before = response(vm)
        assert (await request(vm, ghcb, page_)).status == (0, OVERFLOW)
        assert response(vm) == before


async def test_an_extended_request_gets_no_certificates(boot: Boot, tmp_path: Path) -> None:
    options = {"quote_socket": tmp_path / "r.sock"}
    async with responder(tmp_path / "r.sock") as told, boot(**SNP, **options) as vm:
        ghcb = start(vm)
        vm.guest.done("write", SHARED_MAP + CERTIFICATES, 0x5EC)
        fields = {"rax": CERTIFICATES, "rbx": 1}
        answered = await request(vm, ghcb, bytes(4096), EXT_GUEST_REQUEST, **fields)
        assert answered.status == (0, INVALID_PARAM)
        page_ = sealed(report_request(DATA), key=told.launches[0].vmpck[0])
        assert (await request(vm, ghcb, page_, EXT_GUEST_REQUEST, **fields)).status == (0, 0)
        assert opened(response(vm), 0, told.launches[0].vmpck[0])[0] == 6
        assert vm.guest.value("read", SHARED_MAP + CERTIFICATES) == 0
        private = {"rax": page(9), "rbx": 1}
        answered = await request(vm, ghcb, page_, EXT_GUEST_REQUEST, **private)
        assert answered.status == (MALFORMED, INVALID_INPUT)


CONTENT = bytes(range(1, 251)) * 20


def table(offset: int, length: int, *, ended: bool = True) -> bytes:
    """Return a table of one certificate, and the content of two pages."""
    entry = bytes(range(16)) + struct.pack("<II", offset, length)
    return entry + (bytes(24) if ended else b"") + CONTENT


TABLE = table(48, len(CONTENT))


async def test_an_extended_request_gets_the_certificates(boot: Boot, tmp_path: Path) -> None:
    (tmp_path / "table").write_bytes(TABLE)
    given = f"certs-path={tmp_path / 'table'}"
    options = {"quote_socket": tmp_path / "r.sock", "guest_options": (given,)}
    async with responder(tmp_path / "r.sock") as told, boot(**SNP, **options) as vm:
        ghcb = start(vm)
        to_shared(vm.guest, CERTIFICATES + page(1) - page(0))
        await request(vm, ghcb, bytes(4096))
        page_ = sealed(report_request(DATA), key=told.launches[0].vmpck[0])
        for pages in (0, 1):
            fields = {"rax": CERTIFICATES, "rbx": pages}
            answered = await request(vm, ghcb, page_, EXT_GUEST_REQUEST, **fields)
            assert answered.status == (0, INVALID_LENGTH)
            assert answered.rbx == 2
        # Nothing was asked of the service: the number of the message is still the next one.
        fields = {"rax": CERTIFICATES, "rbx": 2}
        assert (await request(vm, ghcb, page_, EXT_GUEST_REQUEST, **fields)).status == (0, 0)
        assert opened(response(vm), 0, told.launches[0].vmpck[0])[0] == 6
        assert vm.guest.read_bytes(SHARED_MAP + CERTIFICATES, len(TABLE)) == TABLE


async def test_a_request_for_a_key_carries_no_certificates(boot: Boot, tmp_path: Path) -> None:
    """As with KVM: it looks at the type of the message (snp_handle_ext_guest_req())."""
    (tmp_path / "table").write_bytes(TABLE)
    given = f"certs-path={tmp_path / 'table'}"
    options = {"quote_socket": tmp_path / "r.sock", "guest_options": (given,)}
    async with responder(tmp_path / "r.sock") as told, boot(**SNP, **options) as vm:
        ghcb = start(vm)
        await request(vm, ghcb, bytes(4096))
        page_ = sealed(key_request(), kind=KEY_REQUEST, key=told.launches[0].vmpck[0])
        fields = {"rax": CERTIFICATES, "rbx": 0}
        assert (await request(vm, ghcb, page_, EXT_GUEST_REQUEST, **fields)).status == (0, 0)
        assert opened(response(vm), 0, told.launches[0].vmpck[0])[0] == KEY_REQUEST + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Could not open"),
        (bytes(23), "is not a table of certificates"),
        (bytes(16385), "is no file of at most 16384 bytes"),
        (table(48, len(CONTENT) + 1), "is not a table of certificates"),
        (table(0xFFFFFFFF, 0xFFFFFFFF), "is not a table of certificates"),
        (table(24, 8, ended=False)[:24], "is not a table of certificates"),
    ],
)
async def test_certificates_that_cannot_be_given(
    content: bytes | None, message: str, boot: Boot, tmp_path: Path
) -> None:
    path = tmp_path / "table"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VmExited):
        async with boot(**SNP, cont=False, guest_options=(f"certs-path={path}",)):
            pass
    assert message in (tmp_path / "qemu.log").read_text()


async def test_a_file_that_is_none_is_not_read(boot: Boot, tmp_path: Path) -> None:
    """A FIFO would be waited for, and /dev/zero has no end."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(VmExited):
            async with boot(**SNP, cont=False, guest_options=(f"certs-path={path}",)):
                pass
        assert "is no file of at most" in (tmp_path / "qemu.log").read_text()


async def test_a_reset_is_another_guest(boot: Boot, tmp_path: Path) -> None:
    options = {"quote_socket": tmp_path / "r.sock"}
    async with responder(tmp_path / "r.sock") as told, boot(**SNP, **options) as vm:
        await request(vm, start(vm), bytes(4096))
        vm.guest.done("reset")
        await asyncio.to_thread(vm.guest.wait_hello)
        page_ = sealed(report_request(DATA), key=told.launches[0].vmpck[0])
        ghcb = start(vm)
        assert (await request(vm, ghcb, page_)).info2 != 0
        first, second = told.launches
        assert set(first.vmpck).isdisjoint(second.vmpck)
        assert first.report_id != second.report_id
        assert first.measurement == second.measurement
        page_ = sealed(report_request(DATA), key=second.vmpck[0])
        assert (await request(vm, ghcb, page_)).status == (0, 0)


async def test_a_service_that_is_gone_is_an_error_of_the_host(boot: Boot, tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    async with boot(**SNP, quote_socket=path) as vm:
        ghcb = start(vm)
        assert (await request(vm, ghcb, bytes(4096))).status == (0, VMM_ERROR)
        async with responder(path):
            assert (await request(vm, ghcb, bytes(4096))).status == (0, INVALID_PARAM)
        assert (await request(vm, ghcb, bytes(4096))).status == (0, VMM_ERROR)
