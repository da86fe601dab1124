# SPDX-License-Identifier: GPL-2.0-or-later
"""A user's kernel, given as a file or as its build tree, and its configuration."""

import gzip
import zlib
from pathlib import Path

from cvmlab.base.errors import ConfigError, ImageError
from cvmlab.images.kernel_image import identify
from cvmlab.images.vmlinux import extract_vmlinux
from cvmlab.profiles.architecture import ARCHITECTURES, Architecture
from cvmlab.profiles.profile import either


# kernel/configs.c
_IKCONFIG_START, _IKCONFIG_END = b"IKCFG_ST", b"IKCFG_ED"
_NINE_P = frozenset({"CONFIG_NET_9P_VIRTIO=y", "CONFIG_9P_FS=y"})
_DISK = ("CONFIG_VIRTIO_PCI=y", "CONFIG_VIRTIO_BLK=y", "CONFIG_EXT4_FS=y")


def kernel_file(given: Path | None, architecture: Architecture | None = None) -> Path | None:
    """Return *given*, or the kernel in it if it is a build tree; raise ConfigError if it has none.

    Without *architecture*, the first one that the tree has a kernel of counts.
    """
    if given is None or not given.is_dir():
        return given
    rows = tuple(ARCHITECTURES) if architecture is None else (architecture,)
    places = [given / row.kernel.in_build_tree for row in rows]
    kernel = next((place for place in places if place.is_file()), None)
    if kernel is None:
        wanted = either(row.kernel.in_build_tree for row in rows)
        raise ConfigError(
            f"--kernel: the folder {given} has no {wanted}",
            hint=f"run make {places[0].name} there, or give the path of a kernel",
        )
    return kernel


def build_tree(kernel: Path) -> Path | None:
    """Return the build tree that *kernel* lies in, or None if it lies elsewhere."""
    for row in ARCHITECTURES:
        place = Path(row.kernel.in_build_tree).parts
        if kernel.parts[-len(place) :] == place:
            return kernel.parents[len(place) - 1]
    return None


def kernel_config(kernel: Path) -> str | None:
    """Return the configuration of *kernel*: the file beside it, or else what is inside it.

    None if there is neither: CONFIG_IKCONFIG puts it inside.
    """
    beside = _config(kernel.resolve())
    if beside is not None:
        return beside
    try:
        vmlinux = extract_vmlinux(kernel)
    except ImageError:
        return None
    start, end = vmlinux.find(_IKCONFIG_START), vmlinux.find(_IKCONFIG_END)
    if not 0 <= start < end:
        return None
    try:
        return gzip.decompress(vmlinux[start + len(_IKCONFIG_START) : end]).decode(
            "utf-8", "replace"
        )
    except (OSError, EOFError, zlib.error):
        return None


def has_9p(kernel: Path) -> bool:
    """Return whether *kernel* has 9p built in, by the configuration beside it; False without one."""
    config = _config(kernel.resolve())
    return config is not None and set(config.splitlines()) >= _NINE_P


def missing_for_a_disk(kernel: Path) -> tuple[str, ...]:
    """Return what *kernel* would need for a shared disk and has not built in, if that is known."""
    config = _config(kernel.resolve())
    lines = () if config is None else config.splitlines()
    return tuple(line.removesuffix("=y") for line in _DISK if lines and line not in lines)


def _config(kernel: Path) -> str | None:
    """Return the configuration beside *kernel*, as in a build tree or in /boot."""
    places = [kernel.with_name(".config")]
    if kernel.parent.parent.name == "modules":
        places.append(kernel.with_name("config"))
    if (tree := build_tree(kernel)) is not None:
        places.append(tree / ".config")
    try:
        places.append(kernel.with_name(f"config-{identify(kernel).release}"))
    except ImageError:
        return None  # another check refuses it, with the reason
    place = next((place for place in places if place.is_file()), None)
    return None if place is None else place.read_text("utf-8", "replace")
