# SPDX-License-Identifier: GPL-2.0-or-later
"""The words of ``cvmlab boot``, before anything is checked.  Pure."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The words of ``cvmlab boot``, as they were typed; None is what was not."""

    image: str | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    append: str | None = None
    disks: tuple[Path, ...] = ()
    disk_interface: str | None = None
    share: Path | None = None
    user_data: Path | None = None
    console: bool = False
    coco: str | None = None
    coco_options: tuple[str, ...] = ()
    mapgpa: str | None = None
    quotes: bool = False
    firmware: str | None = None
    memory: str | None = None
    cpus: int | None = None
    tb_cache: str | None = None
    net: str | None = None
    on_host_access: str | None = None
    on_pending: str | None = None
    expect: str | None = None
    exec: str | None = None
    timeout_s: float | None = None
    max_faults: tuple[str, ...] = ()
    max_conversions: tuple[str, ...] = ()
    max_accepts: tuple[str, ...] = ()
    baseline: Path | None = None
    name: str | None = None
    run_dir: Path | None = None
    keep: bool = False
    gdb: bool = False
    qemu: Path | None = None
    symbols: Path | None = None

    @property
    def title(self) -> str:
        """What is booted, in a word: the name it was given, the image, or a file."""
        if self.name is not None or self.image is not None:
            return self.name or self.image or ""
        files = [self.kernel, *self.disks]
        return next((path.name for path in files if path is not None), "default")
