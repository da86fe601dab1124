# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules as data: the checks of each operation, their order and their errno.

One TOML file per generation, in ``rules/``.  Code computes *facts* ("the offset is unaligned"); the
file decides which of them a posted version checks, in which order, and with which errno.
"""

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, Self

from cvmlab.base.errors import ConfigError, InvariantError
from cvmlab.generations.refusal import Refusal, errno_value


Fact = bool | Callable[[], bool]
Facts = Mapping[str, Fact]


class Generation(StrEnum):
    """The designs of restricted memory, oldest first."""

    SEAL_GUEST = "A"
    INACCESSIBLE = "B"
    RESTRICTEDMEM = "C"
    GUEST_MEMFD = "D"
    HUGE_GUEST_MEMFD = "E"
    MAPPABLE_GUEST_MEMFD = "F"


@dataclass(frozen=True, slots=True)
class CheckRule:
    """``operation`` fails with ``errno`` when the fact named ``when`` holds.

    ``versions`` limits it to some posted versions (empty: all); ``quirk`` and ``unless`` make it
    depend on a switch.
    """

    operation: str
    when: str
    errno: str
    entry: str
    says: str
    versions: frozenset[str]
    quirk: str | None
    unless: str | None

    @classmethod
    def parse(cls, operation: str, row: Mapping[str, Any]) -> Self:
        errno_value(row["errno"])
        return cls(
            operation,
            row["when"],
            row["errno"],
            row["id"],
            row["says"],
            frozenset(row.get("versions", ())),
            row.get("quirk"),
            row.get("unless"),
        )

    def applies(self, version: str, quirks: frozenset[str]) -> bool:
        return (
            (not self.versions or version in self.versions)
            and (self.quirk is None or self.quirk in quirks)
            and (self.unless is None or self.unless not in quirks)
        )

    def refusal(self, detail: str = "", error_offset: int | None = None) -> Refusal:
        sentence = f"{self.operation}: {self.says}"
        return Refusal(
            errno_value(self.errno),
            f"{sentence}, {detail}" if detail else sentence,
            rule=self.when,
            entry=self.entry,
            error_offset=error_offset,
        )


class Rulebook:
    """The rules of one generation in one version, with some quirks switched on."""

    def __init__(
        self, generation: Generation, version: str | None = None, quirks: Iterable[str] = ()
    ) -> None:
        document = _document(generation)
        self.generation = generation
        self.versions: tuple[str, ...] = tuple(document["versions"])
        self.version = version if version is not None else document["default-version"]
        self.known_quirks: dict[str, str] = dict(document.get("quirks", {}))
        self.quirks = frozenset(quirks)
        if self.version not in self.versions:
            raise ConfigError(
                f"generation {generation} has no version {self.version!r}",
                hint=f"known versions: {', '.join(self.versions)}",
            )
        if unknown := sorted(self.quirks - self.known_quirks.keys()):
            raise ConfigError(
                f"generation {generation} has no quirk {unknown[0]!r}",
                hint=f"known quirks: {', '.join(self.known_quirks) or 'none'}",
            )
        settings = document.get("settings", {})
        self._settings = settings.get("all", {}) | settings.get(self.version, {})
        self._rules = {
            operation: tuple(
                rule
                for rule in (CheckRule.parse(operation, row) for row in rows)
                if rule.applies(self.version, self.quirks)
            )
            for operation, rows in document["rules"].items()
        }

    @property
    def rules(self) -> tuple[CheckRule, ...]:
        return tuple(rule for rules in self._rules.values() for rule in rules)

    def has(self, quirk: str) -> bool:
        """Return whether a quirk is on; raise InvariantError if the generation does not have it."""
        if quirk not in self.known_quirks:
            raise InvariantError(f"generation {self.generation} has no quirk {quirk!r}")
        return quirk in self.quirks

    def number(self, name: str) -> int:
        value = self._settings[name]
        if not isinstance(value, int):
            raise InvariantError(f"setting {name} is not a number")
        return value

    def switch(self, name: str) -> bool:
        return self._settings[name] is True

    def word(self, name: str) -> str:
        return str(self._settings[name])

    def first_broken(self, operation: str, facts: Facts) -> CheckRule | None:
        """Return the first rule of *operation* that *facts* break, in the order of the file."""
        for rule in self._rules[operation]:
            fact = facts[rule.when]
            if fact is True or (fact is not False and fact()):
                return rule
        return None

    def require(
        self,
        operation: str,
        facts: Facts,
        detail: str = "",
        error_offset: int | None = None,
    ) -> None:
        """Raise the Refusal of the first broken rule, if there is one."""
        rule = self.first_broken(operation, facts)
        if rule is not None:
            raise rule.refusal(detail, error_offset)


@cache
def _document(generation: Generation) -> dict[str, Any]:
    return _load(generation.value.lower())


def _load(stem: str) -> dict[str, Any]:
    """Read one file of rules; operations it does not name come from the file it ``extends``."""
    path = files("cvmlab.generations").joinpath("rules", f"{stem}.toml")
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    if "extends" not in document:
        return document
    below = _load(document["extends"])
    settings = below["settings"] | document.get("settings", {})
    settings["all"] = below["settings"]["all"] | document.get("settings", {}).get("all", {})
    return document | {"rules": below["rules"] | document["rules"], "settings": settings}
