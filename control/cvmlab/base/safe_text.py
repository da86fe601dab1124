# SPDX-License-Identifier: GPL-2.0-or-later
"""Text of a guest, made fit for a terminal.  Pure.

A guest can print escape sequences that clear the screen, set the window's title or type into it.
Wherever text of a guest, or of a file that a user was given, is shown, it comes through here; only
``--console`` connects a terminal to the guest itself.
"""

import re
from typing import final


# ECMA-48: control sequences, control strings (until BEL or ST), and two- or three-byte escapes.
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[P\]X^_]|[\x90\x9d\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"
)
# What is left of a sequence that goes on in the next piece of a stream.
_BEGUN = re.compile(
    r"(?:\x1b(?:\[[0-?]*[ -/]*|[P\]X^_][^\x07\x1b\x9c\n]*\x1b?|[ -/]*)"
    r"|\x9b[0-?]*[ -/]*|[\x90\x9d\x98\x9e\x9f][^\x07\x1b\x9c\n]*)\Z"
)
_LONGEST_BEGUN = 256
# C0 but for tab and line feed, DEL, C1, surrogates (bytes that are not UTF-8), and what reorders or
# hides the text around it (Unicode's bidirectional controls, separators and tags).
_UNFIT = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def safe(text: str) -> str:
    """Return *text* without escape sequences; other controls are shown, such as ``\\x07``."""
    return _UNFIT.sub(_shown, _SEQUENCE.sub("", text.replace("\r\n", "\n")))


def safe_line(text: str) -> str:
    """Return *text* as one line: a line feed is shown like any control."""
    return safe(text).replace("\n", "\\n")


def _shown(match: re.Match[str]) -> str:
    number = ord(match.group())
    if 0xDC80 <= number <= 0xDCFF:  # how Python keeps a byte that is not UTF-8
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


@final
class SafeStream:
    """Makes pieces of a stream fit; a sequence that is cut by the end of a piece is waited for."""

    def __init__(self) -> None:
        self._rest = ""

    def take(self, text: str) -> str:
        """Return what can be shown now."""
        whole = self._rest + text
        begun = _BEGUN.search(whole, max(0, len(whole) - _LONGEST_BEGUN))
        end = len(whole) if begun is None else begun.start()
        self._rest = whole[end:]
        return safe(whole[:end])

    def finish(self) -> str:
        """Return what was waited for, at the end of the stream."""
        rest, self._rest = self._rest, ""
        return safe(rest)
