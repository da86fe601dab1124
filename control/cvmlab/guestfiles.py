# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest of a boot as a value: its files, and how its functions are named."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cvmlab.bootspec import Disk
from cvmlab.errors import ImageError
from cvmlab.symbols import Symbols


def _nameless() -> Symbols:
    raise ImageError("the kernel is on the guest's disk", hint="give its symbols with --symbols")


@dataclass(frozen=True, slots=True)
class Guest:
    """The guest's files, wherever they came from; no kernel: the firmware boots a disk.

    ``disks`` come before the user's own, ``late_disks`` after them; ``share`` is a folder for 9p.
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
