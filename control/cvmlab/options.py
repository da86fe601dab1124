# SPDX-License-Identifier: GPL-2.0-or-later
"""A BootSpec from values as people write them, in a script, a notebook or a test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cvmlab.bootspec import (
    AccessPolicy,
    BootSpec,
    Disk,
    DiskFormat,
    EventLoss,
    Firmware,
    Net,
    PendingPolicy,
)
from cvmlab.errors import ConfigError
from cvmlab.ranges import parse_size
from cvmlab.states import Layout


T = TypeVar("T")


def boot_spec(**fields: object) -> BootSpec:
    """Return a BootSpec for values as people write them: ``memory="1G"``, ``disks=["a.img"]``.

    ``memory`` stands for ``memory_bytes``.  Raise ConfigError for what is no field or no value.
    """
    if "memory" in fields:
        fields["memory_bytes"] = fields.pop("memory")
    try:
        return BootSpec(**{name: _READERS[name](value) for name, value in fields.items()})
    except KeyError as error:
        raise ConfigError(
            f"a VM has no option {error}", hint=f"options are {', '.join(sorted(_READERS))}"
        ) from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"bad option of a VM: {error}") from error


def _disk(value: object) -> Disk:
    if isinstance(value, Disk):
        return value
    path = Path(str(value))
    is_qcow2 = path.suffix == f".{DiskFormat.QCOW2}"
    return Disk(path, format=DiskFormat.QCOW2 if is_qcow2 else DiskFormat.RAW)


def _firmware_of(value: object) -> Firmware | Path:
    return Firmware(str(value)) if str(value) in set(Firmware) else Path(str(value))


def _each(read: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    return lambda values: tuple(read(value) for value in values)


def _maybe(read: Callable[[Any], T]) -> Callable[[Any], T | None]:
    return lambda value: None if value is None else read(value)


_READERS: dict[str, Callable[[Any], Any]] = {
    "coco": str,
    "guest_options": _each(str),
    "mapgpa": _maybe(str),
    "quote_socket": _maybe(Path),
    "quotes": bool,
    "memory_bytes": lambda value: value if isinstance(value, int) else parse_size(value),
    "cpus": int,
    "kernel": _maybe(Path),
    "initrd": _maybe(Path),
    "append": str,
    "disks": _each(_disk),
    "net": Net,
    "devices": _each(str),
    "firmware": _firmware_of,
    "on_host_access": AccessPolicy,
    "pending": PendingPolicy,
    "events": EventLoss,
    "layout": _maybe(Layout),
    "gdb": _maybe(str),
    "debuggable": bool,
    "iommu_platform": bool,
    "allow_reboot": bool,
    "rng_seed": _maybe(int),
    "rom_dirs": _each(Path),
    "extra": _each(str),
}

OPTIONS = frozenset(_READERS)
