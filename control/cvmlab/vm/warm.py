# SPDX-License-Identifier: GPL-2.0-or-later
"""Warm boots: the guest as it was when its agent said hello, kept for the next boot that is the same.

Which boot it was is told by a key over everything that goes in: content of kernel, initrd and
firmware, command line, machine, profile, disks, QEMU.  If anything differs, it is another boot.
"""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

import msgspec
from xxhash import xxh3_128

from cvmlab import __version__
from cvmlab.base.errors import ConfigError, CvmError
from cvmlab.machine.spec import BootSpec
from cvmlab.qemu.build import build_of
from cvmlab.qemu.firmware import rom_dirs
from cvmlab.snapshots.snapshot_folder import SnapshotFolder
from cvmlab.snapshots.spec_document import to_document
from cvmlab.snapshots.store import listed, warm_dir
from cvmlab.vm.saving import Saved


_FINISH_S = 60.0
_KEPT = 64  # snapshots of warm boots; the oldest go


class Booting(Protocol):
    """The part of Vm that is kept."""

    @property
    def kernel_release(self) -> str | None: ...

    async def wait_hello(self, *, timeout_s: float = ...) -> str: ...

    async def save_warm(self, place: Path, key: str) -> Saved: ...

    def listen(self) -> None: ...


def key_of(spec: BootSpec, program: Path) -> str:
    """Return the key of the boot of *spec* by the QEMU *program*; raise OSError for a missing file."""
    firmware = spec.firmware if isinstance(spec.firmware, Path) else None
    contents = {path: _digest(path) for path in (spec.kernel, spec.initrd, firmware) if path}
    disks = [(found.st_size, found.st_mtime_ns) for found in (d.path.stat() for d in spec.disks)]
    roms = [
        (file.name, found.st_size, found.st_mtime_ns)
        for folder in spec.rom_dirs or rom_dirs(spec.architecture)
        for file in sorted(folder.iterdir())
        for found in (file.stat(),)
    ]
    said = [__version__, build_of(program), to_document(spec, contents), disks, roms]
    return hashlib.sha256(msgspec.json.encode(said, order="deterministic")).hexdigest()[:32]


def key_for(spec: BootSpec, program: Path) -> str | None:
    """Return the key of a boot that is to be a warm one; None if it cannot be kept.

    :raise ConfigError: a debugger would find a guest that it has not booted, or the guest's agent
        cannot be made to wait at its hello.
    """
    if not spec.restricted:
        return None
    if not spec.architecture.machine.serial_waits:
        raise ConfigError(
            f"--warm cannot keep a guest of {spec.architecture.name}: its serial port stops QEMU, and "
            "not its agent, while the guest is saved",
            hint="leave --warm out; `cvmlab snapshot save` saves a running guest",
        )
    if spec.gdb is not None:
        raise ConfigError("--warm and --gdb exclude each other", hint="leave one out")
    return key_of(spec, program)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxh3_128).hexdigest()


def find(key: str) -> SnapshotFolder | None:
    """Return the guest that was kept for *key*; one that cannot be used is removed."""
    place = warm_dir() / key
    if not place.exists():
        return None
    try:
        return SnapshotFolder.open(place)
    except ConfigError:
        forget(key)
        return None


def forget(key: str) -> None:
    """Remove what was kept for *key*."""
    shutil.rmtree(warm_dir() / key, ignore_errors=True)


@asynccontextmanager
async def keeping(vm: Booting, key: str, problems: list[str]) -> AsyncIterator[None]:
    """Keep the guest of *vm* when it says hello, as long as the block lasts.

    What keeps it from being kept is added to *problems*: the boot is as good as without.
    """
    task = asyncio.create_task(_keep(vm, key, problems), name="warm boot")
    try:
        yield
    finally:
        if vm.kernel_release is not None:  # it said hello: the digests may be left to make
            await asyncio.wait([task], timeout=_FINISH_S)
        task.cancel()
        await asyncio.wait([task])


async def _keep(vm: Booting, key: str, problems: list[str]) -> None:
    try:
        await vm.wait_hello(timeout_s=float("inf"))
        await vm.save_warm(warm_dir() / key, key)
        await asyncio.to_thread(_prune)
    except CvmError as error:
        vm.listen()
        problems.append(f"nothing was kept for a warm boot: {error.message}")


def _prune() -> None:
    with suppress(OSError):
        kept = sorted(listed(warm_dir()), key=lambda path: path.stat().st_mtime)
        for path in kept[:-_KEPT]:
            shutil.rmtree(path, ignore_errors=True)
