# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest of a boot as a value: its files, and the source of its symbols."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cvmlab.base.errors import ImageError
from cvmlab.images.symbols import Symbols
from cvmlab.machine.spec import Disk
from cvmlab.unwind.code import Code


def _nameless() -> Symbols:
    raise ImageError("the kernel is on the guest's disk; give its symbols with --symbols FILE")


def _unknown() -> None:
    """The configuration of a kernel that is not at hand."""


def no_module(_name: str) -> bytes | None:
    """Return the file of a module where none are known."""
    return None


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """The guest's files, whatever their source.  Without a kernel, the firmware boots a disk.

    ``disks`` come before the user's own, ``late_disks`` after them; ``share`` is a folder for 9p.
    ``load_code`` reads the kernel's code, ``module_file`` a module of it, decompressed; both may find
    nothing.
    """

    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    disks: tuple[Disk, ...] = ()
    late_disks: tuple[Disk, ...] = ()
    share: Path | None = None
    release: str | None = None
    is_linux: bool = True
    fixed_addresses: bool = False
    load_symbols: Callable[[], Symbols] = field(default=_nameless)
    load_config: Callable[[], str | None] = field(default=_unknown)
    load_code: Callable[[], Code] = field(default=Code)
    module_file: Callable[[str], bytes | None] = field(default=no_module)
