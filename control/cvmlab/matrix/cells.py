# SPDX-License-Identifier: GPL-2.0-or-later
"""The cells of a matrix: every combination of its axes, with the options its rules give it.  Pure."""

import hashlib
import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from cvmlab.base.choices import choose
from cvmlab.base.errors import ConfigError
from cvmlab.machine.option_rows import BY_NAME
from cvmlab.machine.spec import AccessPolicy, BootSpec, Firmware
from cvmlab.matrix.document_schema import ALL, Boot, CellRule, Matrix, NamedGuest
from cvmlab.memory.measures import MEASURES
from cvmlab.memory.ranges import parse_size
from cvmlab.profiles.architecture import ARCHITECTURES, Architecture
from cvmlab.profiles.profile_rows import NO_PROFILE, PROFILES
from cvmlab.results.budgets import Budget


# What a guest takes besides its memory and QEMU's translation cache: QEMU itself and its controller.
_OVERHEAD_BYTES = 256 << 20
_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Where a cell is: one value of each axis."""

    guest: str
    coco: str
    firmware: str
    on_host_access: str
    cpus: int
    memory: str

    @property
    def id(self) -> str:
        cpus = f"{self.cpus}cpu{'s' if self.cpus > 1 else ''}"
        firmware = self.firmware.rpartition("/")[2]
        return "/".join((self.guest, self.coco, firmware, self.on_host_access, cpus, self.memory))

    def words(self) -> list[str]:
        """Return the options of ``cvmlab boot`` for all but the guest."""
        values = {"coco": self.coco, "firmware": self.firmware, "memory": self.memory}
        access = (
            [] if not PROFILES[self.coco].restricted else ["--on-host-access", self.on_host_access]
        )
        pairs = itertools.chain.from_iterable((f"--{key}", value) for key, value in values.items())
        return [*pairs, "--cpus", str(self.cpus), *access]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One boot.  ``words`` follow ``cvmlab boot``; ``ignored`` and ``unstable`` are reasons."""

    number: int
    axis: Axis
    words: tuple[str, ...]
    timeout_s: float | None
    memory_bytes: int
    ignored: str | None = None
    unstable: str | None = None

    @property
    def id(self) -> str:
        return self.axis.id

    @property
    def folder(self) -> str:
        """Where it is kept; short, because the path of a socket may not be long."""
        return f"{self.number:03}"


def expand(matrix: Matrix, images: Mapping[str, Architecture]) -> tuple[Cell, ...]:
    """Return all cells, the ignored ones among them; raise ConfigError.

    *images* are those that there are, each with its architecture.
    """
    _require_axes(matrix, images)
    axes = matrix.axes
    everything = PROFILES.names if ALL in axes.coco else axes.coco
    combined = itertools.product(
        axes.guest, everything, axes.firmware, axes.on_host_access, axes.cpus, axes.memory
    )
    found = [
        Axis(
            guest=guest,
            coco=coco,
            firmware=firmware,
            on_host_access=access,
            cpus=cpus,
            memory=memory,
        )
        for guest, coco, firmware, access, cpus, memory in combined
    ]
    twice = [axis.id for number, axis in enumerate(found) if axis in found[:number]]
    if twice:
        raise ConfigError(f"cell {twice[0]} appears twice", hint="list each value of an axis once")
    return tuple(_cell(matrix, number, axis, images) for number, axis in enumerate(found, 1))


def _cell(matrix: Matrix, number: int, axis: Axis, images: Mapping[str, Architecture]) -> Cell:
    rules = [rule for rule in matrix.rule if applies(rule, axis)]
    own = matrix.run.tb_cache
    options: dict[str, Any] = {} if own is None else {"tb_cache": own}
    options |= matrix.defaults.options() | _guest_options(matrix.guest, axis.guest)
    for rule in rules:
        options |= rule.options()
    ignored = [rule.ignore for rule in rules if rule.ignore is not None]
    unstable = [rule.unstable for rule in rules if rule.unstable is not None]
    tb_cache = options.get("tb_cache")
    tb_cache_bytes = BootSpec().tb_cache_bytes if tb_cache is None else parse_size(tb_cache)
    return Cell(
        number=number,
        axis=axis,
        words=(*_boot_words(options), *axis.words()),
        timeout_s=options.get("timeout"),
        memory_bytes=parse_size(axis.memory) + tb_cache_bytes + _OVERHEAD_BYTES,
        ignored=next(iter(ignored), None) or _unsupported(axis, _architectures(options, images)),
        unstable=next(iter(unstable), None),
    )


def applies(rule: CellRule, axis: Axis) -> bool:
    """Whether *rule* is for the cell at *axis*."""

    def holds(conditions: Mapping[str, tuple[Any, ...]]) -> bool:
        return all(getattr(axis, name) in values for name, values in conditions.items())

    excluded = rule.unless is not None and holds(rule.unless.conditions())
    return holds(rule.when.conditions()) and not excluded


def _guest_options(guests: Mapping[str, NamedGuest], name: str) -> dict[str, Any]:
    if name not in guests:
        return {"image": name}
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"guest.{name}: not a valid name for a guest", hint="use letters, digits, - and _"
        )
    chain, seen = [guests[name]], {name}
    while (base := chain[-1].extends) is not None:
        if base in seen:
            raise ConfigError(f"guest.{name}: extends forms a cycle at {base!r}")
        seen.add(base)
        chain.append(guests[choose(f"guest.{name}: extends", base, guests)])
    options: dict[str, Any] = {"name": name}
    for guest in reversed(chain):
        options |= guest.options()
    return options


def _architectures(
    options: Mapping[str, Any], images: Mapping[str, Architecture]
) -> tuple[Architecture, ...]:
    """Return what the guest may be of: a kernel or a disk is not read here."""
    if "arch" in options:
        return (ARCHITECTURES.choose("arch", options["arch"]),)
    image = images.get(options.get("image", ""))
    return tuple(ARCHITECTURES) if image is None else (image,)


def _unsupported(axis: Axis, rows: Sequence[Architecture]) -> str | None:
    """Return why no VM can be like that, though each value of it is fine.

    Raises ConfigError for a value that is not.
    """
    plain = BootSpec(coco=NO_PROFILE, memory_bytes=parse_size(axis.memory), cpus=axis.cpus)
    if (wrong := _problem(plain, None, rows)) is not None:
        raise wrong
    access = AccessPolicy(axis.on_host_access)
    wanted = replace(plain, coco=axis.coco, on_host_access=access)
    problem = _problem(wanted, _firmware(axis.firmware), rows)
    return None if problem is None else problem.message


def _problem(
    spec: BootSpec, firmware: Firmware | None, rows: Sequence[Architecture]
) -> ConfigError | None:
    """Return what is wrong with *spec* on the first of *rows*, None if any can have it."""
    problems = []
    for row in rows:
        own = firmware or Firmware(row.kernel_firmware)
        try:
            replace(spec, architecture=row, firmware=own).validate()
        except ConfigError as error:
            problems.append(error)
        else:
            return None
    return problems[0]


def _firmware(word: str) -> Firmware | None:
    # A file's contents are not known here: nothing is said against it.
    return Firmware(word) if word in list(Firmware) else None


def _boot_words(options: Mapping[str, Any]) -> Iterator[str]:
    if "image" in options:
        yield options["image"]
    for name, value in options.items():
        if name not in ("image", "extra"):
            yield from _option_words(BY_NAME[name].label, value)
    yield from options.get("extra", ())


def _option_words(option: str, value: object) -> Iterator[str]:
    """Yield an option as it is typed: with =, so that a value may begin with a dash."""
    match value:
        case bool():
            yield from [option] if value else []
        case tuple() | list():
            yield from (f"{option}={item}" for item in value)
        case float():
            yield f"{option}={value:g}"
        case _:
            yield f"{option}={value}"


def _require_axes(matrix: Matrix, images: Collection[str]) -> None:
    axes = matrix.axes
    for name in (field.name for field in msgspec.structs.fields(axes)):
        if not getattr(axes, name):
            raise ConfigError(
                f"axes: {name.replace('_', '-')} has no value", hint="give it a list of one or more"
            )
    known: dict[str, Sequence[str]] = {
        "guest": [*matrix.guest, *images],
        "coco": [*PROFILES.names, ALL],
        "on_host_access": list(AccessPolicy),
    }
    for name, words in known.items():
        for value in getattr(axes, name):
            choose(f"axes.{name.replace('_', '-')}", value, words)
    for value in axes.firmware:
        if "/" not in value:
            choose("axes.firmware", value, Firmware)
    for value in axes.memory:
        parse_size(value)
    _require_rules(matrix, known)
    for name, boot in {"defaults": matrix.defaults, **matrix.guest}.items():
        _require_budgets(name, boot)


def _require_rules(matrix: Matrix, known: Mapping[str, Sequence[str]]) -> None:
    for number, rule in enumerate(matrix.rule, 1):
        _require_budgets(f"rule {number}", rule)
        for part, when in (("when", rule.when), ("unless", rule.unless)):
            for axis, values in when.conditions().items() if when is not None else ():
                words = {**known, "firmware": [*Firmware, *matrix.axes.firmware]}.get(axis)
                for value in values if words else ():
                    choose(f"rule {number}: {part}.{axis.replace('_', '-')}", value, words or ())


def _require_budgets(where: str, boot: Boot) -> None:
    for option in MEASURES.budgets:
        value = boot.options().get(option.parameter, ())
        for item in value if isinstance(value, tuple) else (value,):
            try:
                Budget.parse(option, str(item))
            except ConfigError as error:
                told = error.message.replace(option.option, f"{where}: max-{option.word}")
                raise ConfigError(told, hint=error.hint) from error


def shard(cells: Sequence[Cell], number: int, count: int) -> tuple[Cell, ...]:
    """Return the cells of shard *number* of *count*: the same on every machine.

    Dealt out in an order that has nothing to do with the axes, so that no shard gets all that is
    slow; ignored cells cost nothing and go to the first.
    """
    runnable = sorted(
        (cell for cell in cells if cell.ignored is None),
        key=lambda cell: hashlib.sha256(cell.id.encode()).digest(),
    )
    mine = {cell.number for cell in runnable[number - 1 :: count]}
    if number == 1:
        mine |= {cell.number for cell in cells if cell.ignored is not None}
    return tuple(cell for cell in cells if cell.number in mine)


def parse_shard(text: str) -> tuple[int, int]:
    """Read ``2/3``; raise ConfigError."""
    first, slash, second = text.partition("/")
    if slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second):
        return int(first), int(second)
    raise ConfigError(
        f"--shard must be I/N, with I from 1 to N (got {text!r})",
        hint="for three runners, write 1/3, 2/3 and 3/3",
    )
