# SPDX-License-Identifier: GPL-2.0-or-later
"""A BootSpec and a Setting from values as people write them, in a script, a notebook or a test."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from enum import Enum
from typing import Any

from cvmlab.base.errors import ConfigError
from cvmlab.machine.option import PYTHON, Form, Option, ValueKind
from cvmlab.machine.option_rows import OPTIONS, having
from cvmlab.machine.spec import BootSpec, Firmware
from cvmlab.memory.ranges import format_size
from cvmlab.profiles.profile_rows import DEFAULT_PROFILE, PROFILES


def boot_spec(**given: object) -> BootSpec:
    """Return a BootSpec for values as people write them: ``memory="1G"``, ``disks=["a.img"]``.

    An option may be called by its own name or by the field's, such as ``memory_bytes``.  Raise
    ConfigError for what is no option or no value.
    """
    require_known(given, keywords(Form.SPEC), "a VM")
    said = read(given, Form.SPEC)
    profile = PROFILES[said.get("coco", DEFAULT_PROFILE)]
    machine = said.setdefault("architecture", profile.default_architecture)
    return BootSpec(**{"firmware": Firmware(machine.kernel_firmware), **said})


def take_setting(options: dict[str, object]) -> dict[str, Any]:
    """Take the fields of a Setting out of *options*, so that those of boot_spec() are left."""
    require_known(options, keywords(PYTHON), "a VM")
    mine = {name: options.pop(name) for name in keywords(Form.SETTING) if name in options}
    return read(mine, Form.SETTING)


def read(given: Mapping[str, object], form: Form) -> dict[str, Any]:
    """Return the fields that options of *form* in *given* set; None is an option not given."""
    found: dict[str, Any] = {}
    for option in having(form):
        names = [name for name in option.keywords if given.get(name) is not None]
        if len(names) > 1:
            raise ConfigError(
                f"{' and '.join(sorted(names))} are the same option", hint="give one of them"
            )
        for name in names:
            found[option.target] = option.read(given[name], name)
    return found


def keywords(form: Form) -> frozenset[str]:
    """Return all names by which Python code may give options of *form*."""
    return frozenset(name for option in having(form) for name in option.keywords)


def require_known(given: Iterable[str], known: Iterable[str], who: str) -> None:
    """Raise ConfigError with a suggestion if a name in *given* is none of *known*."""
    names = sorted(known)
    for name in given:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            guess = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"{who} has no option {name!r}", hint=f"{guess}options are {', '.join(names)}"
            )


def sentence(option: Option) -> str:
    """Return the option's help with its words and its default in it."""
    words = [str(word) for word in option.choices()] if option.choices is not None else []
    *first, last = words or [""]
    told = (
        f"{', '.join(first)} or {last}"
        if first and option.kind is ValueKind.WORD
        else ", ".join(words)
    )
    return option.help.format(choices=told, default=default_of(option))


def default_of(option: Option) -> str:
    """Return the default as help shows it; empty if there is none."""
    if option.default:
        return option.default
    for field in fields(BootSpec):
        if field.name == option.target and option.forms & Form.SPEC:
            is_size = option.kind is ValueKind.SIZE
            value = format_size(field.default) if is_size else field.default  # type: ignore[arg-type]
            named = getattr(value, "name", value) if option.kind is ValueKind.ROW else value
            return str(value.value if isinstance(value, Enum) else named)
    return ""


def by_keyword(name: str) -> Option | None:
    """Return the option that Python calls *name*."""
    return next((option for option in OPTIONS if name in option.keywords), None)
