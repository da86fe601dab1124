# SPDX-License-Identifier: GPL-2.0-or-later
"""The few DER values that vendors' extensions of certificates are made of.  Pure."""


def _value(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def integer(number: int) -> bytes:
    """Return an INTEGER that is not negative."""
    return _value(2, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def octets(content: bytes) -> bytes:
    """Return an OCTET STRING."""
    return _value(4, content)


def enumerated(number: int) -> bytes:
    """Return an ENUMERATED below 128."""
    return _value(10, bytes([number]))


def text(content: str) -> bytes:
    """Return an IA5String."""
    return _value(22, content.encode("ascii"))


def sequence(*values: bytes) -> bytes:
    """Return a SEQUENCE of *values*."""
    return _value(0x30, b"".join(values))


def identifier(dotted: str) -> bytes:
    """Return an OBJECT IDENTIFIER."""
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray([40 * first + second])
    for arc in rest:
        sevens = [arc & 0x7F]
        while arc := arc >> 7:
            sevens.insert(0, arc & 0x7F | 0x80)
        content += bytes(sevens)
    return _value(6, bytes(content))
