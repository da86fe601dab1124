# SPDX-License-Identifier: GPL-2.0-or-later
"""The confidential-guest object of QEMU's command line.  Pure."""

import json
import re
from pathlib import Path

from cvmlab.errors import ConfigError
from cvmlab.ranges import PAGE_SIZE, parse_size


GUEST_ID = "cgs0"
# The object of a profile, as QEMU calls it; the others need none.
GUEST_OBJECTS = {
    "tdx": "tdx-guest", "sev": "sev-guest", "sev-es": "sev-guest", "sev-snp": "sev-snp-guest",
}  # fmt: skip
# What a host has to say of an AMD processor, and of ES: no debugging, encrypted state.
_SEV = ("cbitpos=51", "reduced-phys-bits=1")
_DEFAULTS = {"sev": _SEV, "sev-es": (*_SEV, "policy=0x5"), "sev-snp": _SEV}
# Profiles that can be attested: the property that names who answers for the processor.
ATTESTED = {"tdx": "quote-generation-socket", "sev-snp": "guest-request-socket"}
_PROPERTY = re.compile(r"[a-z][a-z0-9-]*")
_MAX_RETRIES = 1 << 32
_OURS = frozenset({"id", "qom-type"})


def guest_object(coco: str, options: tuple[str, ...], quote_socket: Path | None) -> list[str]:
    """Return the argv words that make the object of a profile; none if it has no object."""
    kind = GUEST_OBJECTS.get(coco)
    if kind is None:
        return []
    given = {_name(option) for option in options}
    options = (*(o for o in _DEFAULTS.get(coco, ()) if _name(o) not in given), *options)
    if quote_socket is None:
        return ["-object", ",".join([kind, f"id={GUEST_ID}", *options])]
    # A socket is a structure, which only JSON can say; then the rest has to have its type as well.
    socket = {"type": "unix", "path": str(quote_socket)}
    split = (option.partition("=") for option in options)
    properties = {name: _typed(value) for name, _, value in split}
    whole = {"qom-type": kind, "id": GUEST_ID, **properties, ATTESTED[coco]: socket}
    return ["-object", json.dumps(whole)]


def require_guest_options(coco: str, options: tuple[str, ...]) -> None:
    """Raise ConfigError for what cannot be a property of the profile's object.

    Which properties there are and what values they take is QEMU's to say.
    """
    if coco not in GUEST_OBJECTS:
        raise ConfigError(
            f"profile {coco} has no guest object that could take options",
            hint=f"profiles that do: {', '.join(GUEST_OBJECTS)}",
        )
    for option in options:
        name, _, value = option.partition("=")
        if not value or "," in value or not _PROPERTY.fullmatch(name):
            raise ConfigError(
                f"--coco-option {option}: this is not NAME=VALUE",
                hint=f"`qemu-system-x86_64 -object {GUEST_OBJECTS[coco]},help` lists the names",
            )
        if name in _OURS:
            raise ConfigError(
                f"--coco-option {option}: {name} is chosen by cvmlab", hint="leave it out"
            )


def mapgpa_options(coco: str, policy: str | None) -> tuple[str, ...]:
    """Return the properties that make a host answer MapGPA by *policy*.

    "all" converts at once, "max:SIZE" a part, so that the guest calls again for the rest, "retry:N"
    has it call again N times before anything is done, "refuse" refuses.
    """
    if policy is None:
        return ()
    if coco != "tdx":
        raise ConfigError("--mapgpa is for TDX guests", hint="add --coco tdx, or leave it out")
    word, _, value = policy.partition(":")
    if word == "max" and value:
        size = parse_size(value)
        if size > 0 and size % PAGE_SIZE == 0:
            return (f"map-gpa-max={size}",)
    if word == "retry" and value.isdecimal() and int(value) < _MAX_RETRIES:
        return (f"map-gpa-retry={int(value)}",)
    if policy in ("all", "refuse"):
        return () if policy == "all" else ("map-gpa-refuse=on",)
    raise ConfigError(
        f"--mapgpa {policy}: this is no policy",
        hint="known are all, max:SIZE (a multiple of 4K), retry:N, refuse",
    )


def _name(option: str) -> str:
    return option.partition("=")[0]


def _typed(value: str) -> bool | int | str:
    if value in ("on", "off"):
        return value == "on"
    try:
        return int(value, 16) if value.startswith("0x") else parse_size(value)
    except ConfigError:
        return value
