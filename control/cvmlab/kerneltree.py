# SPDX-License-Identifier: GPL-2.0-or-later
"""A user's kernel as it comes: a file, or the tree that it was built in; and its configuration."""

from pathlib import Path

from cvmlab.errors import ConfigError, ImageError
from cvmlab.kernel_image import identify


BZIMAGE = Path("arch/x86/boot/bzImage")
_NINE_P = frozenset({"CONFIG_NET_9P_VIRTIO=y", "CONFIG_9P_FS=y"})


def kernel_file(given: Path | None) -> Path | None:
    """Return *given*, or the kernel in it if it is a build tree; raise ConfigError without one."""
    if given is None or not given.is_dir():
        return given
    kernel = given / BZIMAGE
    if not kernel.is_file():
        raise ConfigError(
            f"--kernel: the folder {given} has no {BZIMAGE}",
            hint="run make bzImage in it, or give the path of a kernel",
        )
    return kernel


def has_9p(kernel: Path) -> bool:
    """Tell whether *kernel* is known to have 9p built in: by the configuration that lies near it."""
    config = _config(kernel.resolve())
    return config is not None and set(config.splitlines()) >= _NINE_P


def _config(kernel: Path) -> str | None:
    """As in a build tree, and as in /boot."""
    places = [kernel.with_name(".config")]
    if kernel.parts[-len(BZIMAGE.parts) :] == BZIMAGE.parts:
        places.append(kernel.parents[len(BZIMAGE.parts) - 1] / ".config")
    try:
        places.append(kernel.with_name(f"config-{identify(kernel).release}"))
    except ImageError:
        return None  # it is refused elsewhere, with the reason
    place = next((place for place in places if place.is_file()), None)
    return None if place is None else place.read_text("utf-8", "replace")
