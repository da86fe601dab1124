# SPDX-License-Identifier: GPL-2.0-or-later
"""What was asked for: the options of a boot as they were given, before anything is checked.  Pure."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cvmlab.base.errors import ConfigError
from cvmlab.base.safe_text import safe_line
from cvmlab.machine.option import Group
from cvmlab.machine.option_rows import BY_NAME, OPTIONS
from cvmlab.machine.options import by_keyword, default_of, require_known


@dataclass(frozen=True, slots=True)
class Request:
    """``given`` has the options by their names (option_rows.py); one that was not given is not in it."""

    given: Mapping[str, object]

    @classmethod
    def of(cls, **options: object) -> Self:
        """Take options by their names in Python; raise ConfigError for one that there is not."""
        known = {name for option in OPTIONS for name in option.keywords}
        require_known(options, known, "a boot")
        given: dict[str, object] = {}
        for keyword, value in options.items():
            option = by_keyword(keyword)
            if option is None or _says_nothing(value):
                continue
            if option.name in given:
                raise ConfigError(
                    f"{keyword} was given twice, under two names", hint="give one of them"
                )
            given[option.name] = value
        return cls(given)

    @property
    def title(self) -> str:
        """What is booted, in a word: the name it was given, the image, or a file."""
        for name in ("name", "image"):
            if name in self.given:
                return safe_line(str(self.given[name]))
        disks = self.given.get("disk")
        first = next(iter(disks), None) if isinstance(disks, tuple | list) else disks
        file = self.given.get("kernel", first)
        if file is None:
            return BY_NAME["image"].default
        return safe_line(Path(str(getattr(file, "path", file))).name)

    @property
    def variant(self) -> tuple[str, ...]:
        """Return the options that make another guest of the same kernel, each as ``net=user``."""
        return tuple(
            f"{option.word}={_word(value)}"
            for option in OPTIONS
            if option.group in _SHAPING and option.name not in _OF_THE_KEY
            for value in _values(self.given.get(option.name))
            if str(value) != default_of(option)
        )


_SHAPING = (Group.GUEST, Group.PROFILE, Group.MACHINE)
# What says itself which boot it is, or does not change what the guest does.
_OF_THE_KEY = frozenset(
    {"image", "kernel", "coco", "firmware", "cpus", "memory", "name", "console", "tb_cache"}
)
_PLAIN = re.compile(r"[\w.:+=-]{1,32}")


def _values(value: object) -> Iterator[object]:
    if isinstance(value, tuple | list):
        yield from value
    elif value is not None:
        yield value


def _word(value: object) -> str:
    """Return a word for a value: the name of a file, or a digest of what is no word."""
    text = str(getattr(value, "path", value))
    name = text.rpartition("/")[2] if "/" in text and " " not in text else text
    if _PLAIN.fullmatch(name):
        return name
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


def _says_nothing(value: object) -> bool:
    return value is None or value is False or value in ((), [])
