# SPDX-License-Identifier: GPL-2.0-or-later
"""Services that fail on purpose, each in the way that was asked for."""

import asyncio
import math
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from voltage_verify import tdx

from cvmlab.attestation.quote_faults import QuoteFault, QuoteFaultKind
from cvmlab.attestation.services import attestation_service
from cvmlab.base.errors import ConfigError
from cvmlab.machine.spec import BootSpec
from cvmlab.pki.pki_folder import save
from tests.cca_verifier import TokenError, verified
from tests.fakes.pkis import DATA, small_pki, td_report
from tests.fakes.snp_guest import launch_message, opened, report_request, sealed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("attest") / "pki"
    save(small_pki(), path)
    return path


async def exchange(
    name: str, messages: Sequence[bytes], folder: Path, socket: Path, fault: str | None
) -> list[bytes]:
    """Return the answers to *messages*, each by a connection of its own but for an SNP guest's."""
    frames = [struct.pack(">I", len(message)) + message for message in messages]
    async with attestation_service(name, socket, folder, (), fault):
        if name in ("tdx-quotes", "cca-tokens"):
            return [await answered(socket, [frame]) for frame in frames]
        hello = launch_message()
        start = struct.pack(">I", len(hello)) + hello
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            writer.write(start)
            found = []
            for frame in frames:
                writer.write(frame)
                found.append(await frame_of(reader))
            return found
        finally:
            writer.close()
            await writer.wait_closed()


async def answered(socket: Path, frames: Sequence[bytes]) -> bytes:
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.writelines(frames)
        return await frame_of(reader)
    finally:
        writer.close()
        await writer.wait_closed()


async def frame_of(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        size = int.from_bytes(await reader.readexactly(4), "big")
        return await reader.readexactly(size)


def td_request(data: bytes) -> bytes:
    report = td_report()
    report = report[:128] + data.ljust(64, b"\0") + report[192:]
    return struct.pack("<HHIIIII", 1, 0, 0, 24 + len(report), 0, len(report), 0) + report


async def quotes(folder: Path, socket: Path, fault: str | None) -> tuple[list[int], list[bytes]]:
    """Return error codes and quotes of two requests over different data."""
    messages = [td_request(data) for data in (b"one", b"two")]
    found = await exchange("tdx-quotes", messages, folder, socket, fault)
    return [struct.unpack_from("<I", one, 12)[0] for one in found], [one[24:] for one in found]


async def reports(folder: Path, socket: Path, fault: str | None) -> tuple[list[int], list[bytes]]:
    """Return the firmware's statuses and the reports of two requests over different data."""
    requests = [
        struct.pack("<II", 2, 0) + sealed(report_request(data), sequence=sequence)
        for data, sequence in ((DATA, 1), (DATA[::-1], 3))
    ]
    found = await exchange("snp-requests", requests, folder, socket, fault)
    statuses = [struct.unpack_from("<I", one, 4)[0] for one in found]
    return statuses, [
        b"" if status else opened(one[8:], 0)[2][32:]
        for status, one in zip(statuses, found, strict=True)
    ]


def token_request(challenge: bytes) -> bytes:
    return b"cvmlcca1" + bytes(8) + challenge.ljust(64, b"\0") + bytes(6 * 64)


async def tokens(folder: Path, socket: Path, fault: str | None) -> tuple[list[int], list[bytes]]:
    """Return whether two requests failed, and the tokens."""
    messages = [token_request(challenge) for challenge in (b"one", b"two")]
    found = await exchange("cca-tokens", messages, folder, socket, fault)
    return [int(not one) for one in found], found


CPAK = small_pki().cca.cpak.ec_key.public_key()
ROOT = small_pki().tdx.root.certificate


async def test_an_honest_service_answers_each(folder: Path, tmp_path: Path) -> None:
    errors, (first, second) = await quotes(folder, tmp_path / "s", None)
    assert errors == [0, 0]
    tdx.verify_signatures(tdx.parse_quote(first), ROOT)
    assert first != second
    failed, (one, two) = await tokens(folder, tmp_path / "t", None)
    assert failed == [0, 0]
    assert [verified(token, CPAK).realm[10][:3] for token in (one, two)] == [b"one", b"two"]


async def test_an_error_is_the_status_that_was_asked_for(folder: Path, tmp_path: Path) -> None:
    assert await quotes(folder, tmp_path / "s", "error:0x12000002") == (
        [0x12000002] * 2,
        [b"", b""],
    )
    assert await reports(folder, tmp_path / "r", "error:22") == ([22] * 2, [b"", b""])
    assert await tokens(folder, tmp_path / "t", "error:1") == ([1, 1], [b"", b""])


async def test_half_of_what_was_signed_is_missing(folder: Path, tmp_path: Path) -> None:
    _, whole = await quotes(folder, tmp_path / "s", None)
    _, halves = await quotes(folder, tmp_path / "s2", "truncate")
    assert halves == [one[: len(one) // 2] for one in whole]
    statuses, parts = await reports(folder, tmp_path / "r", "truncate")
    assert (statuses, [len(part) for part in parts]) == ([0, 0], [0x4A0 // 2] * 2)
    _, whole = await tokens(folder, tmp_path / "t", None)
    _, halves = await tokens(folder, tmp_path / "t2", "truncate")
    assert halves == [one[: len(one) // 2] for one in whole]


async def test_the_first_one_comes_again(folder: Path, tmp_path: Path) -> None:
    _, (first, second) = await quotes(folder, tmp_path / "s", "replay")
    assert first == second
    tdx.verify_signatures(tdx.parse_quote(second), ROOT)
    statuses, (one, two) = await reports(folder, tmp_path / "r", "replay")
    assert statuses == [0, 0]
    assert one == two
    _, (one, two) = await tokens(folder, tmp_path / "t", "replay")
    assert one == two
    assert verified(two, CPAK).realm[10][:3] == b"one"


async def test_another_key_signs(folder: Path, tmp_path: Path) -> None:
    _, (quote, _) = await quotes(folder, tmp_path / "s", "wrong-key")
    with pytest.raises(tdx.QuoteError, match="does not verify with the attestation key"):
        tdx.verify_signatures(tdx.parse_quote(quote), ROOT)
    _, honest = await reports(folder, tmp_path / "r", None)
    _, made = await reports(folder, tmp_path / "r2", "wrong-key")
    assert [one[:0x2A0] for one in made] == [one[:0x2A0] for one in honest]
    assert made[0][0x2A0:] != honest[0][0x2A0:]
    _, (token, _) = await tokens(folder, tmp_path / "t", "wrong-key")
    with pytest.raises(TokenError):
        verified(token, CPAK)


@pytest.mark.parametrize("ask", [quotes, reports, tokens])
async def test_an_answer_comes_late(ask: object, folder: Path, tmp_path: Path) -> None:
    assert callable(ask)
    loop = asyncio.get_running_loop()
    start = loop.time()
    await ask(folder, tmp_path / "s", "slow:0.2")
    assert 0.4 <= loop.time() - start < 10


@pytest.mark.parametrize("ask", [quotes, reports, tokens])
async def test_an_answer_never_comes(ask: object, folder: Path, tmp_path: Path) -> None:
    """The end of the service, which is that of the VM, does not wait for it."""
    assert callable(ask)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await ask(folder, tmp_path / "s", "never")


async def test_fake_quotes_fail_alike(tmp_path: Path) -> None:
    async with attestation_service("tdx-quotes", tmp_path / "s", fault="truncate"):
        message = td_request(b"")
        found = await answered(tmp_path / "s", [struct.pack(">I", len(message)) + message])
    assert b"FAKE" in found
    with pytest.raises(tdx.QuoteError):
        tdx.parse_quote(found[24:])


@pytest.mark.parametrize("kind", QuoteFaultKind)
def test_each_kind_has_a_word(kind: QuoteFaultKind) -> None:
    number = {QuoteFaultKind.ERROR: ":5", QuoteFaultKind.SLOW: ":2.5"}.get(kind, "")
    assert QuoteFault.of(f"{kind}{number}").kind is kind


def test_a_fault_is_an_error_or_a_delay() -> None:
    assert QuoteFault.of("error:0x10").status == 16
    assert QuoteFault.of("slow:2.5").delay_s == 2.5
    assert QuoteFault.of("never").delay_s == math.inf
    assert (QuoteFault.of("replay").status, QuoteFault.of("replay").delay_s) == (None, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slo:1", "--quote-fault: there is no 'slo'"),
        ("slow", "slow needs seconds"),
        ("slow:", "slow needs seconds"),
        ("slow:-1", "slow needs seconds"),
        ("slow:inf", "slow needs seconds"),
        ("slow:nan", "slow needs seconds"),
        ("error", "error needs a status"),
        ("error:0", "error needs a status"),
        ("error:x", "error needs a status"),
        ("error:0x100000000", "error needs a status"),
        ("never:1", "never takes no number"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        QuoteFault.of(text)
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (BootSpec(coco="tdx", quote_fault="never"), "there is none"),
        (BootSpec(coco="tdx", quotes=True, quote_fault="wrong-key"), "no key signs a fake quote"),
        (BootSpec(coco="tdx", quotes=True, quote_fault="what"), "there is no 'what'"),
    ],
)
def test_a_boot_with_a_fault_that_makes_no_sense_is_refused(spec: BootSpec, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spec.validate()
