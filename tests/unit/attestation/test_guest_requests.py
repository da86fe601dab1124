# SPDX-License-Identifier: GPL-2.0-or-later
"""SNP guest requests: messages made here by hand, byte by byte, and what the firmware makes of them."""

import asyncio
import hmac
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag

from cvmlab.attestation.guest_requests import guest_request_service
from cvmlab.attestation.snp_firmware import SnpGuest
from cvmlab.attestation.snp_report import FAKE_SIGNER, Launch
from tests.fakes.snp_guest import (
    BAD_MEASUREMENT,
    INVALID_KEY,
    INVALID_PARAM,
    KEY_REQUEST,
    KEYS,
    OVERFLOW,
    REPORT_REQUEST,
    SUCCESS,
    key_request,
    launch_message,
    opened,
    report_request,
    sealed,
)  # fmt: skip


DATA = bytes(range(64))
LAUNCH = Launch(
    policy=0x30000, vmpck=KEYS, measurement=b"M" * 48, host_data=b"H" * 32, family_id=b"F" * 16,
    image_id=b"I" * 16, guest_svn=7, has_author_key=False, id_key_digest=b"k" * 48,
    author_key_digest=b"a" * 48, report_id=b"R" * 32,
)  # fmt: skip


def report(data: bytes = DATA, vmpl: int = 0, vmpck: int = 0) -> bytes:
    """Return the report that a fresh guest gets."""
    status, page = SnpGuest(LAUNCH).answer(sealed(report_request(data, vmpl), vmpck=vmpck))
    assert status == SUCCESS
    kind, sequence, payload = opened(page, vmpck)
    assert (kind, sequence) == (REPORT_REQUEST + 1, 2)
    assert struct.unpack_from("<II", payload) == (0, 0x4A0)
    return payload[32:]


def test_the_fields_of_a_report_are_where_a_verifier_looks() -> None:
    made = report(vmpl=1)
    assert len(made) == 0x4A0
    assert struct.unpack_from("<IIQ", made) == (2, 7, 0x30000)
    assert made[0x10:0x30] == b"F" * 16 + b"I" * 16
    assert struct.unpack_from("<II", made, 0x30) == (1, 1)
    assert made[0x48:0x50] == bytes(8)
    assert made[0x50:0x90] == DATA
    assert made[0x90:0xC0] == b"M" * 48
    assert made[0xC0:0xE0] == b"H" * 32
    assert made[0xE0:0x140] == b"k" * 48 + b"a" * 48
    assert made[0x140:0x180] == b"R" * 32 + bytes(32)
    assert made[0x1A0:0x1E0].rstrip(b"\0") == b"cvmlab: emulated, this is no chip"
    assert made[0x1F8:0x2A0] == bytes(0xA8)


def test_the_signature_of_a_report_is_none() -> None:
    made = report()
    assert made[0x2A0:0x330] == b"FAKE" * 36
    assert made[0x330:] == bytes(0x4A0 - 0x330)


def test_a_response_opens_with_its_own_key_only() -> None:
    _, page = SnpGuest(LAUNCH).answer(sealed(report_request(DATA), vmpck=0))
    with pytest.raises(InvalidTag):
        opened(page, 1)


def test_each_key_counts_its_own_messages() -> None:
    guest = SnpGuest(LAUNCH)
    for vmpck, sequence in ((0, 1), (1, 1), (0, 3), (1, 3), (3, 1), (0, 5)):
        request = report_request(DATA, vmpck)
        status, page = guest.answer(sealed(request, vmpck=vmpck, sequence=sequence))
        assert (status, opened(page, vmpck)[1]) == (SUCCESS, sequence + 1)


REPORT = report_request(DATA)


@pytest.mark.parametrize(
    ("page", "status"),
    [
        (bytes(4096), INVALID_PARAM),
        (sealed(REPORT, algorithm=2), INVALID_PARAM),
        (sealed(REPORT, header_version=2), INVALID_PARAM),
        (sealed(REPORT, header_size=64), INVALID_PARAM),
        (sealed(REPORT, key=KEYS[0], vmpck=4), INVALID_PARAM),
        (sealed(REPORT, size=0), INVALID_PARAM),
        (sealed(REPORT, size=95), INVALID_PARAM),
        (sealed(REPORT, size=4016), INVALID_PARAM),
        (sealed(REPORT, key=bytes(32)), BAD_MEASUREMENT),
        (sealed(REPORT, size=80), BAD_MEASUREMENT),
        (sealed(REPORT)[:96] + b"!" + sealed(REPORT)[97:], BAD_MEASUREMENT),
        (b"!" + sealed(REPORT)[1:], BAD_MEASUREMENT),
        (sealed(REPORT)[:0x40] + b"!" + sealed(REPORT)[0x41:], BAD_MEASUREMENT),
        (sealed(REPORT, nonce=3), BAD_MEASUREMENT),
        (sealed(REPORT, sequence=0), OVERFLOW),
        (sealed(REPORT, sequence=2), OVERFLOW),
        (sealed(REPORT, sequence=3), OVERFLOW),
        (sealed(REPORT, sequence=2**64 - 1), OVERFLOW),
        (sealed(REPORT, version=0), INVALID_PARAM),
        (sealed(REPORT, version=2), INVALID_PARAM),
        (sealed(REPORT[:80]), INVALID_PARAM),
        (sealed(key_request()[:16], kind=KEY_REQUEST), INVALID_PARAM),
        *((sealed(REPORT, kind=kind), INVALID_PARAM) for kind in (0, 1, 2, 4, 6, 7, 13, 17, 255)),
    ],
)  # fmt: skip
def test_what_the_firmware_refuses_gets_no_message(page: bytes, status: int) -> None:
    guest = SnpGuest(LAUNCH)
    assert guest.answer(page) == (status, bytes(4096))
    assert guest.answer(sealed(REPORT))[0] == SUCCESS, "it must have changed nothing"


def test_a_message_cannot_be_played_again() -> None:
    guest = SnpGuest(LAUNCH)
    assert guest.answer(sealed(REPORT))[0] == SUCCESS
    assert guest.answer(sealed(REPORT))[0] == OVERFLOW


@pytest.mark.parametrize(
    ("request_", "vmpck", "status"),
    [
        (report_request(DATA, vmpl=3), 0, SUCCESS),
        (report_request(DATA, vmpl=4), 0, INVALID_PARAM),
        (report_request(DATA, vmpl=2), 2, SUCCESS),
        (report_request(DATA, vmpl=1), 2, INVALID_PARAM),
        (report_request(DATA, selection=1), 0, SUCCESS),
        (report_request(DATA, selection=2), 0, INVALID_KEY),
        (report_request(DATA, selection=3), 0, INVALID_KEY),
        (report_request(DATA, selection=4), 0, INVALID_PARAM),
        (REPORT[:-1] + b"!", 0, INVALID_PARAM),
    ],
)
def test_a_report_request_with_wrong_content(request_: bytes, vmpck: int, status: int) -> None:
    guest = SnpGuest(LAUNCH)
    firmware_status, page = guest.answer(sealed(request_, vmpck=vmpck))
    assert firmware_status == SUCCESS
    _, _, payload = opened(page, vmpck)
    assert struct.unpack_from("<I", payload)[0] == status
    assert (payload[32:] == bytes(0x4A0)) == (status != SUCCESS)


def key(status: int = SUCCESS, /, **fields: int) -> bytes:
    """Return the key that a fresh guest derives; it must have this status."""
    return key_of(LAUNCH, status, **fields)


def key_of(launch: Launch, status: int = SUCCESS, /, **fields: int) -> bytes:
    """Return the key that a fresh guest of this launch derives."""
    _, page = SnpGuest(launch).answer(sealed(key_request(**fields), kind=KEY_REQUEST))
    kind, _, payload = opened(page, 0)
    assert (kind, len(payload)) == (KEY_REQUEST + 1, 64)
    assert struct.unpack_from("<I", payload)[0] == status
    return payload[32:]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"selection": 1}, SUCCESS),
        ({"selection": 2}, SUCCESS),
        ({"selection": 4}, INVALID_KEY),
        ({"selection": 6}, INVALID_KEY),
        ({"selection": 7}, SUCCESS),
        ({"selection": 8}, INVALID_PARAM),
        ({"reserved": 1}, INVALID_PARAM),
        ({"vmpl": 3}, SUCCESS),
        ({"vmpl": 4}, INVALID_PARAM),
        ({"fields": 0x3F, "svn": 7}, SUCCESS),
        ({"fields": 0x40}, INVALID_PARAM),
        ({"fields": 0x10, "svn": 8}, INVALID_PARAM),
        ({"svn": 8}, SUCCESS),
        ({"fields": 0x20, "tcb": 1}, INVALID_PARAM),
        ({"tcb": 1}, SUCCESS),
    ],
    ids=str,
)
def test_a_key_request(fields: dict[str, int], status: int) -> None:
    assert (key(status, **fields) == bytes(32)) == (status != SUCCESS)


def test_a_derived_key_is_what_its_root_and_its_choice_make_it() -> None:
    mix = struct.pack("<IQI", 0, 0x19, 2) + struct.pack("<IQQ", 5, 0, 0x30000)
    mix += bytes(32) + b"M" * 48 + b"H" * 32 + b"k" * 48
    block = struct.pack(">I", 1) + b"gmsg-keyreq\0" + mix + struct.pack(">I", 256)
    assert key(fields=0x19, vmpl=2, svn=5) == hmac.digest(
        FAKE_SIGNER.processor.secret, block, "sha256"
    )


@pytest.mark.parametrize(
    "other",
    [
        {"selection": 1}, {"vmpl": 1}, *({"fields": 1 << bit} for bit in range(6)),
        {"fields": 0x10, "svn": 1},
    ],
    ids=str,
)  # fmt: skip
def test_another_choice_is_another_key(other: dict[str, int]) -> None:
    assert key() == key()
    assert key(**other) != key()


def test_the_root_of_a_vm_is_that_of_one_launch() -> None:
    again = replace(LAUNCH, report_id=b"S" * 32)
    assert key_of(again, selection=1) != key(selection=1)
    assert key_of(again) == key()


async def exchange(path: Path, *messages: bytes) -> bytes:
    """Send *messages* to the service and return what it answers until it closes, or to the last."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        for message in messages:
            writer.write(struct.pack(">I", len(message)) + message)
        async with asyncio.timeout(10):
            size = int.from_bytes(await reader.read(4), "big")
            return await reader.readexactly(size)
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_connection_is_a_guest(tmp_path: Path) -> None:
    request = struct.pack("<II", 2, 0) + sealed(REPORT)
    async with guest_request_service(tmp_path / "r.sock") as path:
        for _launch in range(2):
            response = await exchange(path, launch_message(), request)
            assert struct.unpack_from("<II", response) == (3, SUCCESS)
            assert opened(response[8:], 0)[2][32 + 0x50 : 32 + 0x90] == DATA


async def test_the_service_tells_the_host_what_the_firmware_refused(tmp_path: Path) -> None:
    request = struct.pack("<II", 2, 0) + bytes(4096)
    async with guest_request_service(tmp_path / "r.sock") as path:
        response = await exchange(path, launch_message(), request)
    assert response == struct.pack("<II", 3, INVALID_PARAM) + bytes(4096)


@pytest.mark.parametrize(
    "messages",
    [
        [b""],
        [launch_message()[:-1]],
        [launch_message(kind=2)],
        [launch_message(version=2)],
        [launch_message(), b"short"],
        [launch_message(), struct.pack("<II", 1, 0) + bytes(4096)],
        [launch_message(), bytes(1 << 17)],
    ],
    ids=["empty", "cut", "type", "version", "short request", "wrong type", "too long"],
)
async def test_who_speaks_another_protocol_is_cut_off(
    tmp_path: Path, messages: list[bytes]
) -> None:
    async with guest_request_service(tmp_path / "r.sock") as path:
        assert await exchange(path, *messages) == b""
