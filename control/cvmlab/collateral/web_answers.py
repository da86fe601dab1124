# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests and answers of the services, as values, and which service has which path.  Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True, slots=True)
class WebRequest:
    """A GET: the parts of its path, and its query."""

    parts: tuple[str, ...]
    query: Mapping[str, str]

    @classmethod
    def of(cls, target: str) -> Self:
        """Return the request for *target*, path and query."""
        split = urlsplit(target)
        return cls(tuple(filter(None, split.path.split("/"))), dict(parse_qsl(split.query)))


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """An answer; an error has a sentence as its content."""

    content: bytes
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


def refusal(status: int, sentence: str) -> WebAnswer:
    """Return an answer that is an error."""
    return WebAnswer(sentence.encode() + b"\n", "text/plain", status=status)
