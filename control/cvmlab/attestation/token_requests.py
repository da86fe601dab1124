# SPDX-License-Identifier: GPL-2.0-or-later
"""The service that makes attestation tokens for emulated realms; cca_token.py says what they are.

A message is a request of the plugin (plugin/profiles/cca/token.h), in the frames of
service_frames.py; the answer is a token.  An empty answer is a failure: the realm's call ends with
RSI_ERROR_UNKNOWN, and there is no status for it.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

from cvmlab.attestation.cca_token import FAKE_SIGNER, RealmClaims, TokenSigner, token
from cvmlab.attestation.quote_faults import QuoteFault
from cvmlab.attestation.service_frames import pause, read_frame, serve, write_frame


def token_service(
    path: Path, signer: TokenSigner | None = None, fault: QuoteFault | None = None
) -> AbstractAsyncContextManager[Path]:
    """Serve on the Unix socket *path* while the block runs; its end closes all connections."""
    used = signer or FAKE_SIGNER
    if fault is not None:
        used = replace(used, alter=fault.altering())

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            claims = RealmClaims.of(await read_frame(reader))
            if fault is not None:
                await pause(fault.delay_s)
            fails = fault is not None and fault.status is not None
            await write_frame(writer, b"" if fails else token(claims, used))

    return serve(path, attend)
