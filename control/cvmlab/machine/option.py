# SPDX-License-Identifier: GPL-2.0-or-later
"""What a boot option is: its name, how a value of it is read, where it may be given, its help.

option_rows.py has one row for each option; every form of an option is made from its row.  Starting
the command line imports this module, so it imports nothing that is slow.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, EnumMeta, Flag, StrEnum, auto
from os import PathLike
from pathlib import Path
from typing import Any

from cvmlab.base.choices import choose
from cvmlab.base.errors import ConfigError


class Form(Flag):
    """Where an option may be given."""

    COMMAND = auto()  # `cvmlab boot`
    SPEC = auto()  # a field of BootSpec, so Vm(**options) has it
    SETTING = auto()  # a field of Setting, so Vm(**options) has it
    VM = auto()  # a keyword of Vm itself
    MATRIX = auto()  # a key of [defaults], [guest.NAME] and [[rule]] in a matrix file
    AXIS = auto()  # a key of [axes] in a matrix file
    MARK = auto()  # the pytest mark `cvm`, and the fixtures that read it


# What Vm(**options) takes.
PYTHON = Form.SPEC | Form.SETTING | Form.VM


class Group(StrEnum):
    """A section of `cvmlab boot --help`."""

    GUEST = "Guest"
    PROFILE = "Confidential profile"
    MACHINE = "Machine"
    VERDICT = "Budgets and verdict"
    OUTPUT = "Output"
    PUBLISHING = "Publishing"
    DEBUGGING = "Debugging"


class ValueKind(Enum):
    """What a value is, which decides how it is read and what a matrix file may say."""

    TEXT = auto()
    WORD = auto()  # one of a few; the row has them
    ROW = auto()  # the name of an architecture, or its row
    PATTERN = auto()  # a regular expression
    NUMBER = auto()
    SECONDS = auto()
    SIZE = auto()  # 512M, or bytes
    LIMIT = auto()  # N, or PHASE=N
    SWITCH = auto()
    FILE = auto()  # to be read
    FOLDER = auto()  # to be read
    PROGRAM = auto()
    PLACE = auto()  # a path that need not exist
    DISK = auto()  # a file to be read, with its format
    FIRMWARE = auto()  # a word, or a file to be read
    GDB = auto()  # a switch on the command line, an address for QEMU in Python
    OBJECT = auto()  # anything; not for people to type


PATHS = frozenset(
    {ValueKind.FILE, ValueKind.FOLDER, ValueKind.PROGRAM, ValueKind.PLACE, ValueKind.DISK}
)
GDB_SERVER = "tcp:127.0.0.1:1234"  # what --gdb alone means


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One boot option.

    ``name`` with dashes is the word on the command line and the key in a matrix file.  ``python`` is
    the keyword in Python, ``field`` the field of BootSpec or Setting; they are ``name`` unless they
    differ.  In ``help``, {choices} and {default} are filled in when it is shown.
    """

    name: str
    group: Group
    forms: Form
    kind: ValueKind = ValueKind.TEXT
    metavar: str = ""
    help: str
    choices: Callable[[], Iterable[str]] | None = None
    repeatable: bool = False
    default: str = ""  # for {default}, of an option that no field has
    short: str = ""
    python: str = ""
    field: str = ""
    is_argument: bool = False

    @property
    def word(self) -> str:
        """The key in a matrix file; the command line has two dashes before it."""
        return self.name.replace("_", "-")

    @property
    def label(self) -> str:
        """What an error on the command line calls it."""
        return self.name if self.is_argument else f"--{self.word}"

    @property
    def keyword(self) -> str:
        return self.python or self.name

    @property
    def target(self) -> str:
        """The field of BootSpec or Setting that it sets."""
        return self.field or self.keyword

    @property
    def keywords(self) -> frozenset[str]:
        """The names that Python takes: the option's, and its field's."""
        fields = {self.target} if self.forms & PYTHON else set()
        return frozenset({self.keyword} | fields)

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value on the command line."""
        return self.kind in (ValueKind.SWITCH, ValueKind.GDB)

    def read(self, value: object, label: str | None = None) -> Any:
        """Return *value*, from text or a program, as what it means; raise ConfigError.

        *label* is what the user calls the option; without one it is that of the command line.
        """
        told = label or self.label
        if not self.repeatable:
            return self._read_one(value, told)
        if isinstance(value, Iterable) and not isinstance(value, str | bytes):
            return tuple(self._read_one(item, told) for item in value)
        return (self._read_one(value, told),)

    def _read_one(self, value: object, label: str) -> Any:
        if self.kind is ValueKind.WORD:
            words = self.choices() if self.choices is not None else ()
            word = choose(label, str(value), words)
            return words(word) if isinstance(words, EnumMeta) else word
        return _READERS[self.kind](value, label)


def _text(value: object, _label: str) -> str:
    return str(value)


def _architecture(value: object, label: str) -> object:
    from cvmlab.profiles.architecture import ARCHITECTURES, Architecture

    return value if isinstance(value, Architecture) else ARCHITECTURES.choose(label, str(value))


def _pattern(value: object, label: str) -> str:
    try:
        re.compile(str(value))
    except re.error as error:
        raise ConfigError(
            f"{label} {str(value)!r} is not a regular expression: {error}",
            hint="a backslash before ( [ { . * + ? ^ $ | takes it literally",
        ) from error
    if not value:
        raise ConfigError(f"{label} is empty", hint="give text that will appear on the console")
    return str(value)


def _number(value: object, label: str) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ConfigError(
            f"{label} must be a whole number (got {str(value)!r})", hint="give a number"
        ) from None


def _seconds(value: object, label: str) -> float:
    try:
        seconds = float(str(value))
    except ValueError:
        raise ConfigError(
            f"{label} must be a number of seconds (got {str(value)!r})",
            hint="give a number of seconds",
        ) from None
    if not 0 < seconds < math.inf:
        raise ConfigError(
            f"{label} must be greater than 0 (got {seconds:g})", hint="give a number of seconds"
        )
    return seconds


def _size(value: object, label: str) -> int:
    from cvmlab.memory.ranges import parse_size

    if isinstance(value, int):
        return value
    try:
        return parse_size(str(value))
    except ConfigError as error:
        raise ConfigError(f"{label}: {error.message}", hint=error.hint) from error


def _switch(value: object, _label: str) -> bool:
    return bool(value)


def _path(value: object, label: str) -> Path:
    if not isinstance(value, str | PathLike):
        raise ConfigError(f"{label} must be a path (got {value!r})")
    return Path(value)


def _disk(value: object, label: str) -> object:
    from cvmlab.machine.spec import Disk

    return value if isinstance(value, Disk) else Disk(_path(value, label))


def _firmware(value: object, label: str) -> object:
    from cvmlab.machine.spec import Firmware

    path = _path(value, label)
    if isinstance(value, str) and value in set(Firmware):
        return Firmware(value)
    if isinstance(value, Path) or "/" in str(value) or path.is_file():
        return path
    return Firmware(choose(label, str(value), Firmware))


def _gdb(value: object, _label: str) -> str | None:
    if isinstance(value, bool):
        return GDB_SERVER if value else None
    return str(value)


def _as_it_is(value: object, _label: str) -> object:
    return value


_READERS: Mapping[ValueKind, Callable[[Any, str], Any]] = {
    ValueKind.TEXT: _text,
    ValueKind.ROW: _architecture,
    ValueKind.PATTERN: _pattern,
    ValueKind.NUMBER: _number,
    ValueKind.SECONDS: _seconds,
    ValueKind.SIZE: _size,
    ValueKind.LIMIT: _text,
    ValueKind.SWITCH: _switch,
    ValueKind.FILE: _path,
    ValueKind.FOLDER: _path,
    ValueKind.PROGRAM: _path,
    ValueKind.PLACE: _path,
    ValueKind.DISK: _disk,
    ValueKind.FIRMWARE: _firmware,
    ValueKind.GDB: _gdb,
    ValueKind.OBJECT: _as_it_is,
}
