# SPDX-License-Identifier: GPL-2.0-or-later
"""Build a bootable disk from a recipe: a root file system, an EFI system partition, a GPT.

It needs no root, because it mounts nothing and uses no loop device: mke2fs writes a folder into a
file, mtools writes FAT, sfdisk writes the table.  A disk is built once, and again only when the
recipe changes or with ``cvmlab images --rebuild``.

    $XDG_CACHE_HOME/cvmlab/disks/NAME-DIGEST/disk.raw      sparse
                                            /vmlinuz-…     the kernel in it, for its symbols
"""

import hashlib
import io
import os
import shutil
import sys
import tarfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cvmlab.base.errors import BuildError, ImageError
from cvmlab.base.locks import exclusive
from cvmlab.base.paths import cache_dir
from cvmlab.base.progress import Part, Style, Task, task
from cvmlab.base.steps import Steps
from cvmlab.debian import apt
from cvmlab.debian.packages import disk_errors
from cvmlab.images import bootloader, rootfs
from cvmlab.images.bootloader import System
from cvmlab.images.recipes import DiskRecipe
from cvmlab.profiles.architecture import Architecture


_LAYOUT = "1"  # of these disks; change it to rebuild cached ones
_DISK, _KERNEL = "disk.raw", "vmlinuz-"
_KEPT = 2  # disks of one name: two checkouts may differ
_LOCK_DEADLINE_S = 3600.0
_TOOL_DEADLINE_S = 300.0
_SECTOR = 512
_MIB = 1 << 20
_ESP_AT, _ESP_BYTES = 1 * _MIB, 96 * _MIB
_ROOT_AT = _ESP_AT + _ESP_BYTES
_TAIL_BYTES = _MIB  # for the second copy of the table
# UAPI.2, discoverable partitions; the type of the root partition is the architecture's.
_ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_PACKAGES = Part("installing packages", 45.0)
_FILES = Part("file systems", 8.0)
# The folders of mke2fs and sfdisk, which may not be on a user's PATH.
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class DiskImage:
    """A built disk; ``release`` is the output of ``uname -r`` in it."""

    disk: Path
    kernel: Path

    @property
    def release(self) -> str:
        return self.kernel.name.removeprefix(_KERNEL)


def cached(name: str, recipe: DiskRecipe) -> DiskImage | None:
    """Return the disk of *recipe* if it has been built."""
    kernel = next(_folder(name, recipe).glob(f"{_KERNEL}*"), None)
    return None if kernel is None else DiskImage(kernel.with_name(_DISK), kernel)


def build(
    name: str, recipe: DiskRecipe, *, style: Style = Style.AUTO, force: bool = False
) -> DiskImage:
    """Return the disk of *recipe*; build it if it is not in the cache, or with *force*.

    Raise ImageError, or ConfigError if Debian packages are missing.
    """
    found = cached(name, recipe)
    if found is not None and not force:
        return found
    apt.ensure([apt.Need.DISK, apt.Need.FOLDER], style=style)
    disks = cache_dir() / "disks"
    with exclusive(disks / "lock", "build of a disk image", deadline_s=_LOCK_DEADLINE_S):
        found = cached(name, recipe)
        if found is not None and not force:
            return found
        with (
            task(f"disk {name}", (_PACKAGES, _FILES), style=style, stream=sys.stderr) as running,
            disk_errors(),
        ):
            try:
                return _build(name, recipe, running, force=force)
            except BuildError as error:
                raise ImageError(error.message, hint=error.hint) from error


def _folder(name: str, recipe: DiskRecipe) -> Path:
    words = f"{recipe.architecture.append} {recipe.append}"
    told = "\0".join((_LAYOUT, rootfs.digest(recipe), recipe.boot, str(recipe.size_bytes), words))
    return cache_dir() / "disks" / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def _build(name: str, recipe: DiskRecipe, running: Task, *, force: bool) -> DiskImage:
    place = _folder(name, recipe)
    log = place.parent / f"{name}.log"
    log.unlink(missing_ok=True)
    steps = Steps(log=log, tick=running.tick, env=_environment())
    running.enter(_PACKAGES.name)
    tarball = rootfs.make(recipe, steps, running.advance, force=force)
    running.enter(_FILES.name)
    with TemporaryDirectory(dir=place.parent, prefix="new-") as folder:
        made = Path(folder, place.name)
        made.mkdir()
        kernel = assemble(recipe, tarball, made, steps).kernel
        shutil.rmtree(place, ignore_errors=True)
        made.rename(place)
    _forget_old(place, name)
    return DiskImage(place / _DISK, place / kernel.name)


def _environment() -> dict[str, str]:
    path = f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATH}"
    # mtools takes the time zone from TZ; mke2fs and sfdisk use SOURCE_DATE_EPOCH.
    return {**os.environ, "PATH": path, "TZ": "UTC", "SOURCE_DATE_EPOCH": str(rootfs.EPOCH)}


def assemble(recipe: DiskRecipe, tarball: Path, into: Path, steps: Steps) -> DiskImage:
    """Make a disk from *tarball* in the folder *into*."""
    machine = recipe.architecture
    with TemporaryDirectory(dir=into.parent, prefix="new-") as temporary:
        work = Path(temporary)
        disk = into / _DISK
        with disk.open("wb") as file:
            file.truncate(recipe.size_bytes)
        uuids = _uuids(recipe)
        kernel = rootfs.take_out(tarball, rf"boot/{_KERNEL}.*", into)
        system = System(
            kernel=kernel,
            initrd=rootfs.take_out(tarball, r"boot/initrd\.img-.*", work),
            os_release=rootfs.take_out(tarball, "usr/lib/os-release", work),
            # With KASLR, the addresses in events would not lead to functions.
            command_line=" ".join(
                [f"root=UUID={uuids['root']} ro", machine.append, "nokaslr", recipe.append]
            ).strip(),
            root_uuid=uuids["root"],
            efi=machine.efi,
        )
        _partition(disk, machine, uuids, work, steps)
        _write_esp(disk, bootloader.esp_files(recipe.boot, system, work, steps), steps)
        files = {**_root_files(uuids), **bootloader.root_files(recipe.boot, system)}
        _write_root(disk, tarball, _tar(files, work / "ours.tar"), work, uuids["root"], steps)
    return DiskImage(disk, kernel)


def _uuids(recipe: DiskRecipe) -> dict[str, str]:
    """Return the UUIDs of the disk and its parts, always the same for a recipe."""
    space = uuid.uuid5(uuid.NAMESPACE_URL, f"cvmlab:{rootfs.digest(recipe)}:{recipe.boot}")
    names = ("table", "esp", "root", "root-part", "machine")
    return {name: str(uuid.uuid5(space, name)) for name in names}


def _root_files(uuids: Mapping[str, str]) -> dict[str, str]:
    return {
        "etc/fstab": f"UUID={uuids['root']} / ext4 rw,noatime 0 0\n",
        # With a fixed ID no boot is a first boot, so systemd skips its first-boot work.
        "etc/machine-id": uuids["machine"].replace("-", "") + "\n",
        "etc/.updated": "",
        "var/.updated": "",
    }


def _partition(
    disk: Path, machine: Architecture, uuids: Mapping[str, str], work: Path, steps: Steps
) -> None:
    root_bytes = disk.stat().st_size - _ROOT_AT - _TAIL_BYTES
    lines = [
        "label: gpt",
        f"label-id: {uuids['table']}",
        _part("esp", _ESP_AT, _ESP_BYTES, _ESP_TYPE, uuids["esp"]),
        _part("root", _ROOT_AT, root_bytes, machine.efi.root_partition, uuids["root-part"]),
    ]
    table = work / "table"
    table.write_text("\n".join(lines) + "\n")
    command: list[str | Path] = [
        "sh",
        "-c",
        'exec sfdisk --quiet "$1" <"$2"',
        "sfdisk",
        disk,
        table,
    ]
    steps.run(command, what="sfdisk", deadline_s=_TOOL_DEADLINE_S)


def _part(name: str, start: int, size: int, kind: str, identity: str) -> str:
    sectors = f"start={start // _SECTOR}, size={size // _SECTOR}"
    return f"{sectors}, type={kind}, uuid={identity}, name={name}"


def _write_esp(disk: Path, files: Mapping[str, Path], steps: Steps) -> None:
    image = f"{disk}@@{_ESP_AT}"

    def run(*command: str | Path) -> None:
        steps.run(command, what=str(command[0]), deadline_s=_TOOL_DEADLINE_S)

    sectors = str(_ESP_BYTES // _SECTOR)
    run("mformat", "-i", image, "-F", "-T", sectors, "-N", "c0ffee00", "-v", "ESP", "::")
    for folder in sorted({parent for name in files for parent in Path(name).parents[:-1]}):
        run("mmd", "-i", image, f"::{folder}")
    for name, path in files.items():
        run("mcopy", "-i", image, path, f"::{name}")


def _tar(files: Mapping[str, str], target: Path) -> Path:
    with tarfile.open(target, "w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(text.encode()), rootfs.EPOCH
            tar.addfile(member, io.BytesIO(text.encode()))
    return target


def _write_root(
    disk: Path, tarball: Path, ours: Path, work: Path, identity: str, steps: Steps
) -> None:
    tree = work / "root"
    tree.mkdir()
    blocks = f"{(disk.stat().st_size - _ROOT_AT - _TAIL_BYTES) >> 10}k"
    script = 'for tar in "$1" "$2"; do tar -C "$3" --numeric-owner -xf "$tar"; done; shift 3; "$@"'
    # fmt: off
    command: list[str | Path] = [
        "fakeroot", "sh", "-ec", script, "sh", tarball, ours, tree,
        "mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-U", identity,
        "-E", f"offset={_ROOT_AT},hash_seed={identity}", "-d", tree, disk, blocks,
    ]
    # fmt: on
    steps.run(command, what="making the root file system", deadline_s=_TOOL_DEADLINE_S)


def _forget_old(place: Path, name: str) -> None:
    length = len(place.name)
    same = [
        folder for folder in place.parent.glob(f"{name}-*")
        if folder.is_dir() and len(folder.name) == length
    ]  # fmt: skip
    for folder in sorted(same, key=lambda folder: -folder.stat().st_mtime)[_KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)
