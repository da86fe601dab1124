# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold of a guest object's options before QEMU starts, by the word of a profile's row.  Pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from cvmlab.profiles.guest_object import given_properties
from cvmlab.profiles.profile import OptionCheck


def _id_block(options: Iterable[str]) -> None:
    from cvmlab.attestation.id_blocks import require_signed  # its library takes long

    require_signed(options)


_CHECKS: Final[Mapping[str, Callable[[Iterable[str]], None]]] = {"id-block": _id_block}


def require_checked(check: OptionCheck | None, options: tuple[str, ...]) -> None:
    """Raise ConfigError if *options* have some that *check* is for, and it fails."""
    if check is not None and given_properties(options).keys() & {*check.options}:
        _CHECKS[check.name](options)
