# SPDX-License-Identifier: GPL-2.0-or-later
"""An SNP guest's side of its messages, written from AMD's specification 56860 and not from our code."""

import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


KEYS = (b"0" * 32, b"1" * 32, b"2" * 32, b"3" * 32)
KEY_REQUEST, REPORT_REQUEST = 3, 5
SUCCESS, BAD_MEASUREMENT, INVALID_PARAM, OVERFLOW, INVALID_KEY = 0, 0x0B, 0x16, 0x1D, 0x27


def sealed(
    payload: bytes, *, kind: int = REPORT_REQUEST, vmpck: int = 0, sequence: int = 1,
    version: int = 1, algorithm: int = 1, header_version: int = 1, header_size: int = 96,
    size: int | None = None, key: bytes | None = None, nonce: int | None = None,
) -> bytes:  # fmt: skip
    """Return a request page; what is given wrong is authenticated all the same."""
    length = len(payload) if size is None else size
    header = bytearray(96)
    struct.pack_into("<Q", header, 0x20, sequence)
    struct.pack_into("<BBHBBH", header, 0x30, algorithm, header_version, header_size, kind, version, length)  # fmt: skip
    header[0x3C] = vmpck
    iv = struct.pack("<QI", sequence if nonce is None else nonce, 0)
    text = AESGCM(key or KEYS[vmpck]).encrypt(iv, payload, bytes(header[0x30:]))
    header[:16] = text[-16:]
    return (bytes(header) + text[:-16]).ljust(4096, b"\0")


def opened(page: bytes, vmpck: int, key: bytes | None = None) -> tuple[int, int, bytes]:
    """Return type, sequence number and content of a response; raise InvalidTag if it is not ours."""
    algorithm, header_version, header_size, kind, version, size = struct.unpack_from(
        "<BBHBBH", page, 0x30
    )
    assert (algorithm, header_version, header_size, version) == (1, 1, 96, 1)
    (sequence,) = struct.unpack_from("<Q", page, 0x20)
    text = page[96 : 96 + size] + page[:16]
    payload = AESGCM(key or KEYS[vmpck]).decrypt(
        struct.pack("<QI", sequence, 0), text, page[0x30:0x60]
    )
    return kind, sequence, payload


def report_request(data: bytes, vmpl: int = 0, selection: int = 0) -> bytes:
    """Return the content of MSG_REPORT_REQ."""
    return struct.pack("<64sII24x", data, vmpl, selection)


def key_request(
    *, selection: int = 0, reserved: int = 0, fields: int = 0, vmpl: int = 0, svn: int = 0, tcb: int = 0
) -> bytes:  # fmt: skip
    """Return the content of MSG_KEY_REQ."""
    return struct.pack("<IIQIIQ", selection, reserved, fields, vmpl, svn, tcb)


def launch_message(kind: int = 1, version: int = 1) -> bytes:
    """Return what the plugin tells the responder of a guest with KEYS."""
    head = struct.pack("<IIQ", kind, version, 0x30000) + b"".join(KEYS)
    return head + bytes(48 + 32 + 16 + 16) + struct.pack("<II", 0, 0) + bytes(48 + 48 + 32)
