# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the generations share: expecting a refusal, and watching notifications."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from cvmlab.generations.refusal import Refusal, errno_value
from cvmlab.generations.syscalls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE


PG = 4096
KEEP = FALLOC_KEEP_SIZE
PUNCH = FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE
M2 = 2 << 20
G1 = 1 << 30


@contextmanager
def refused(
    name: str, entry: str = "", *, rule: str = "", error_offset: int | None = None
) -> Iterator[None]:
    """Expect a Refusal with this errno, citing *entry* and *rule*, telling *error_offset*, if given."""
    with pytest.raises(Refusal) as caught:
        yield
    number = caught.value.errno or 0
    assert number == errno_value(name), errno.errorcode.get(number, number)
    assert f"(rule {caught.value.rule}, {caught.value.entry})" in str(caught.value)
    if rule:
        assert caught.value.rule == rule
    if entry:
        assert caught.value.entry == entry
    if error_offset is not None:
        assert caught.value.error_offset == error_offset


@dataclass
class Listener:
    """A notifier that writes down what it is told."""

    name: str = "listener"
    heard: list[tuple[str, int, int]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def invalidate_start(self, start: int, end: int) -> None:
        self.heard.append(("start", start, end))
        self.log.append(self.name)

    def invalidate_end(self, start: int, end: int) -> None:
        self.heard.append(("end", start, end))

    def error(self, start: int, end: int) -> None:
        self.heard.append(("error", start, end))
