# SPDX-License-Identifier: GPL-2.0-or-later
"""The confidential-guest object of QEMU's command line.  Pure."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cvmlab.base.errors import ConfigError
from cvmlab.memory.ranges import PAGE_SIZE, parse_size
from cvmlab.profiles.profile import GuestObject, HostPolicy, Profile


GUEST_ID = "cgs0"
_PROPERTY = re.compile(r"[a-z][a-z0-9-]*")
_MAX_RETRIES = 1 << 32
_OURS = frozenset({"id", "qom-type"})
# QEMU's words for a property that is on or off: qapi_bool_parse(), qapi/qapi-util.c.
_SWITCHES: Final = {
    "on": True, "yes": True, "true": True, "y": True,
    "off": False, "no": False, "false": False, "n": False,
}  # fmt: skip


def guest_object(
    profile: Profile,
    options: tuple[str, ...],
    attestation_socket: Path | None,
    certificates: Path | None = None,
) -> list[str]:
    """Return the argv words that make the profile's object; none if it has no object.

    *certificates* is a file of them, for objects that take one and are not given one in *options*.
    """
    guest = profile.guest_object
    if guest is None:
        return []
    given = {_name(option) for option in options}
    options = (*(o for o in guest.defaults if _name(o) not in given), *options)
    wanted = profile.attestation and profile.attestation.certificates_property
    if certificates is not None and wanted and wanted not in given:
        options = (*options, f"{wanted}={certificates}")
    if attestation_socket is None or profile.attestation is None:
        return ["-object", ",".join([guest.type, f"id={GUEST_ID}", *options])]
    # A socket is a structure, which only JSON can express.  In JSON every property needs its type.
    socket = {"type": "unix", "path": str(attestation_socket)}
    properties = {name: _typed(value) for name, value in given_properties(options).items()}
    whole = {
        "qom-type": guest.type,
        "id": GUEST_ID,
        **properties,
        profile.attestation.socket_property: socket,
    }
    return ["-object", json.dumps(whole)]


def require_guest_options(guest: GuestObject, options: tuple[str, ...], *, qemu: str) -> None:
    """Raise ConfigError for an option that cannot be a property of the object.

    Only QEMU knows which properties there are and what values they take.
    """
    for option in options:
        name, _, value = option.partition("=")
        if not value or "," in value or not _PROPERTY.fullmatch(name):
            raise ConfigError(
                f"--coco-option {option} is not NAME=VALUE",
                hint=f"`{qemu} -object {guest.type},help` lists the names",
            )
        if name in _OURS:
            raise ConfigError(
                f"--coco-option {option}: cvmlab sets {name} itself", hint="leave it out"
            )


def policy_options(policy: HostPolicy | None, answer: str | None) -> tuple[str, ...]:
    """Return the properties that make a host answer requests for conversions by *answer*.

    "all" converts at once.  "max:SIZE" converts a part, and the guest calls again for the rest.
    "retry:N" has the guest call N more times before anything is converted.  "refuse" refuses.
    """
    if policy is None or answer is None or answer == "all":
        return ()
    word, _, value = answer.partition(":")
    if word == "max" and value:
        size = parse_size(value)
        if size > 0 and size % PAGE_SIZE == 0:
            return (f"{policy.properties}-max={size}",)
    if word == "retry" and value.isdecimal() and int(value) < _MAX_RETRIES:
        return (f"{policy.properties}-retry={int(value)}",)
    if answer == "refuse":
        return (f"{policy.properties}-refuse=on",)
    parts = ["max:SIZE", *(f"{other}:SIZE" for other, usual in policy.synonyms if usual == "max")]
    raise ConfigError(
        f"--{policy.option} {answer} is not a policy",
        hint=f"policies are all, {' or '.join(parts)} (a multiple of 4K), retry:N, refuse",
    )


def given_properties(options: Iterable[str]) -> dict[str, str]:
    """Return *options* by name; the last of a name counts, as for QEMU (util/keyval.c)."""
    return {name: value for name, _, value in (option.partition("=") for option in options)}


def is_on(value: str | None) -> bool:
    """Return whether *value* turns a property on in QEMU's eyes; without a value it is off."""
    return value is not None and _SWITCHES.get(value, False)


def _name(option: str) -> str:
    return option.partition("=")[0]


def _typed(value: str) -> bool | int | str:
    if value in _SWITCHES:
        return _SWITCHES[value]
    try:
        return int(value, 16) if value.startswith("0x") else parse_size(value)
    except (ConfigError, ValueError):  # such as base64 that begins with 0x
        return value
