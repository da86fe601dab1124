# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests: kernels, initramfs, disks, symbols, and the ways to run a command in them."""

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from cvmlab.images.boot_files import NO_INITRD, BootFiles, listing, overlay, resolve


__all__ = ["NO_INITRD", "BootFiles", "listing", "overlay", "resolve"]


def __getattr__(name: str) -> object:
    """Import a public name only when it is asked for, so that other modules load fast."""
    if name not in __all__:
        raise AttributeError(f"module 'cvmlab.images' has no attribute {name!r}")
    return getattr(import_module("cvmlab.images.boot_files"), name)
