# SPDX-License-Identifier: GPL-2.0-or-later
"""The service that plays the security processor of emulated SNP guests; snp_firmware.py answers.

A connection is a guest, from its launch to its end or reset.  Messages are little-endian and packed,
in the frames of service_frames.py:

* LAUNCH, the first one, has no answer: what the firmware knows of the guest.
* REQUEST: the request page as the guest wrote it.
* ANSWER: the firmware's status and the response page, which is valid only if the status is 0.
"""

import asyncio
import struct
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final

from cvmlab.attestation.quote_faults import QuoteFault
from cvmlab.attestation.service_frames import (
    BadFrameError,
    pause,
    read_frame,
    serve,
    write_frame,
)
from cvmlab.attestation.snp_firmware import SnpGuest
from cvmlab.attestation.snp_messages import VMPCK_BYTES
from cvmlab.attestation.snp_report import FAKE_SIGNER, Launch, Signer
from cvmlab.memory.ranges import PAGE_SIZE


LAUNCH, REQUEST, ANSWER = 1, 2, 3
VERSION: Final = 1
AUTHOR_KEY: Final = 1 << 0
# type, version, policy, VMPCK0 to 3, measurement, host data, family, image, SVN, flags, digests of
# ID key and author key, report ID
LAUNCH_LAYOUT: Final = struct.Struct("<IIQ128s48s32s16s16sII48s48s32s")
REQUEST_LAYOUT: Final = struct.Struct(f"<II{PAGE_SIZE}s")


def launch_of(message: bytes) -> Launch:
    """Read a LAUNCH message; raise BadFrameError if it is not one."""
    if len(message) != LAUNCH_LAYOUT.size:
        raise BadFrameError(f"a launch in {len(message)} bytes")
    kind, version, policy, keys, *blocks = LAUNCH_LAYOUT.unpack(message)
    if (kind, version) != (LAUNCH, VERSION):
        raise BadFrameError(f"the first message is of type {kind}, version {version}")
    measurement, host_data, family, image, svn, flags, id_key, author_key, report_id = blocks
    first, second, third, fourth = (
        keys[at : at + VMPCK_BYTES] for at in range(0, len(keys), VMPCK_BYTES)
    )
    return Launch(
        policy=policy,
        vmpck=(first, second, third, fourth),
        measurement=measurement,
        host_data=host_data,
        family_id=family,
        image_id=image,
        guest_svn=svn,
        has_author_key=bool(flags & AUTHOR_KEY),
        id_key_digest=id_key,
        author_key_digest=author_key,
        report_id=report_id,
    )


def answer(guest: SnpGuest, message: bytes, status: int | None = None) -> bytes:
    """Return the ANSWER to a REQUEST; raise BadFrameError if it is not one.

    With *status* it is a failure, and the guest is not asked.
    """
    if len(message) != REQUEST_LAYOUT.size:
        raise BadFrameError(f"a request in {len(message)} bytes")
    kind, _, page = REQUEST_LAYOUT.unpack(message)
    if kind != REQUEST:
        raise BadFrameError(f"a message of type {kind} instead of a request")
    if status is not None:
        return REQUEST_LAYOUT.pack(ANSWER, status, bytes(PAGE_SIZE))
    found, response = guest.answer(page)
    return REQUEST_LAYOUT.pack(ANSWER, found, response)


def guest_request_service(
    path: Path, signer: Signer | None = None, fault: QuoteFault | None = None
) -> AbstractAsyncContextManager[Path]:
    """Serve on the Unix socket *path* while the block runs; its end closes all connections."""
    used = signer or FAKE_SIGNER
    if fault is not None:
        used = replace(used, alter=fault.altering())

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        guest = SnpGuest(launch_of(await read_frame(reader)), used)
        while True:
            message = await read_frame(reader)
            if fault is not None:
                await pause(fault.delay_s)
            status = None if fault is None else fault.status
            await write_frame(writer, answer(guest, message, status))

    return serve(path, attend)
