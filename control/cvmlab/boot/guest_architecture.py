# SPDX-License-Identifier: GPL-2.0-or-later
"""Which architecture a guest is of: that of its kernel or image, of ``--arch``, or of its profile."""

from collections.abc import Mapping
from typing import Any

from cvmlab.base.errors import ConfigError
from cvmlab.images.kernel_image import identify
from cvmlab.images.recipes import load
from cvmlab.profiles.architecture import ARCHITECTURES, DEFAULT_ARCHITECTURE, Architecture
from cvmlab.profiles.profile import Profile


def architecture_of(said: Mapping[str, Any], profile: Profile) -> Architecture:
    """Return the architecture of the guest of *profile* that the options in *said* describe.

    :raise ConfigError: ``--arch`` is not that of the kernel or image.
    :raise ImageError: the kernel is none, or cannot be read.
    """
    asked: Architecture | None = said.get("arch")
    told = _told(said)
    if told is None:
        return asked or profile.default_architecture
    what, name = told
    if asked is not None and name != asked.name:
        raise ConfigError(
            f"{what} for {name}, but --arch is {asked.name}",
            hint=f"leave --arch out, or boot a guest for {asked.name}",
        )
    # A kernel for an architecture without a row is refused later, by its format.
    return ARCHITECTURES.get(name) or DEFAULT_ARCHITECTURE


def _told(said: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what says the architecture, and its name; None: nothing does, as for a user's disk."""
    kernel = said.get("kernel")
    if kernel is not None:
        return f"{kernel} is a kernel", identify(kernel).arch
    if "image" in said:
        return f"{said['image']} is", load().find(said["image"]).architecture.name
    return None
