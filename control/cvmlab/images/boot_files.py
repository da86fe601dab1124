# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that QEMU boots, for the name of an image or for a user's own files."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cvmlab.base.choices import choose
from cvmlab.base.errors import ConfigError, ImageError
from cvmlab.base.progress import Style
from cvmlab.debian.apt_call import run
from cvmlab.debian.packages import OnStep, cached_kernel, fetch, fetch_kernel, silent, unpack
from cvmlab.images import disk_image, initramfs
from cvmlab.images.initrd_contents import look_into
from cvmlab.images.kernel_image import KernelImage, identify
from cvmlab.images.kernel_modules import ModuleTree
from cvmlab.images.kernel_tree import build_tree
from cvmlab.images.recipes import DiskRecipe, ImageRecipe, load
from cvmlab.images.vmlinux import started_kernel
from cvmlab.machine.disk_format import disk_format as format_of
from cvmlab.profiles.architecture import ARCHITECTURES, DEFAULT_ARCHITECTURE, Architecture


NO_INITRD = Path("none")  # as initrd: boot without one
# All images have the same busybox, so only one suite's lists are fetched.
_BUSYBOX = ("busybox-static", "trixie")
_BUSYBOX_PATHS = ("usr/bin/busybox", "bin/busybox")
_KERNEL_PLACES = ("boot/vmlinu[xz]-*", "usr/lib/modules/*/vmlinuz")  # until and since 6.17
_LAYOUT = "1"  # of our initramfs; change it to rebuild cached ones
_REAL_MAP_BYTES = 4096  # Debian's System.map is one line that names another package
_STAT_BLOCK = 512
_QEMU_IMG_DEADLINE_S = 60


@dataclass(frozen=True, slots=True)
class BootFiles:
    """The files to boot.  ``append`` comes after the machine's own kernel parameters.

    ``kernel`` is what QEMU starts, ``origin`` the file that it was unpacked from, or the same.
    ``release`` is the output of ``uname -r``, if known; ``system_map`` is never Debian's placeholder.
    ``modules`` are those of the kernel's package, if it is from one.
    """

    kernel: Path
    origin: Path
    initrd: Path | None
    append: str
    release: str | None
    system_map: Path | None
    arch: str
    modules: ModuleTree | None = None


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """A line of ``cvmlab images``; ``size_bytes`` and ``release`` describe the cached files."""

    name: str
    description: str
    suite: str
    arch: str
    is_default: bool
    is_cached: bool
    release: str | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Kernel:
    image: KernelImage
    modules: ModuleTree | None


def resolve(
    image: str | ImageRecipe | None = None,
    *,
    kernel: Path | None = None,
    initrd: Path | None = None,
    append: str = "",
    extra_modules: Sequence[str] = (),
    exec_command: str | None = None,
    share: bool = False,
    arch: Architecture | None = None,
    on_step: OnStep = silent,
) -> BootFiles:
    """Return the files to boot; fetch and build what is not in the cache.

    *image* is a recipe or the name of one (None: the default); or *kernel* is the user's own.  With
    *arch*, it has to be for that architecture, and the default is the one of it.
    Without *initrd*, an image or a Linux kernel without ``root=`` gets our initramfs; NO_INITRD
    means none.  *exec_command* is a line of shell to run in the guest: our init runs it, or the
    user's own if it calls ``/cvmlab/agent``; instead of another one, ours is started.  *share*: the
    agent mounts a shared folder first.  Raise ConfigError or ImageError.
    """
    if kernel is not None and image is not None:
        raise ConfigError("an image and --kernel cannot be combined", hint="leave one of them out")
    if kernel is None:
        recipe = image if isinstance(image, ImageRecipe) else _recipe(image, arch)
        found = _from_recipe(recipe, on_step)
        words, names = f"{recipe.append} {append}".strip(), (*recipe.modules, *extra_modules)
    else:
        found, words, names = _Kernel(identify(kernel), None), append, tuple(extra_modules)
    row = arch or ARCHITECTURES.get(found.image.arch) or DEFAULT_ARCHITECTURE
    found.image.require_bootable(row)
    task = _Task(exec_command, share, row)
    chosen = _initrd(found, initrd, names, task, words)
    return BootFiles(
        kernel=started_kernel(found.image.path, row),
        origin=found.image.path,
        initrd=chosen.path,
        append=f"{words} {chosen.append}".strip(),
        release=found.modules.release if found.modules else found.image.release,
        system_map=_system_map(found.image),
        arch=found.image.arch,
        modules=found.modules,
    )


def image_has(
    image: str | None,
    modules: Sequence[str],
    *,
    arch: Architecture | None = None,
    on_step: OnStep = silent,
) -> bool:
    """Return whether the kernel of *image* has all *modules*, built in or not.

    Without a name it is the default of *arch*.
    """
    tree = _from_recipe(_recipe(image, arch), on_step).modules
    return tree is not None and all(name in tree.files or name in tree.builtin for name in modules)


def overlay(
    disk: Path,
    run_dir: Path,
    qemu_img: Path,
    *,
    disk_format: str | None = None,
    name: str | None = None,
) -> Path:
    """Make a qcow2 file in *run_dir* that takes the guest's writes; *disk* does not change.

    Without *disk_format*, the content of *disk* tells it.
    """
    if not disk.is_file():
        raise ImageError(f"there is no disk {disk}")
    made = run_dir / (name or f"{disk.name}.overlay.qcow2")
    backing = ("-F", disk_format or format_of(disk), "-b", str(disk.absolute()))
    create = ("create", "-q", "-f", "qcow2", *backing, str(made.absolute()))
    status, _, errors = run(
        [str(qemu_img), *create], what="qemu-img", deadline_s=_QEMU_IMG_DEADLINE_S
    )
    if status != 0:
        # The first line has the cause; "Could not open backing image." may follow it.
        reason = (errors.strip().splitlines() or [f"qemu-img ended with status {status}"])[0]
        reason = reason.removeprefix("qemu-img: ").removeprefix(f"{made.absolute()}: ")
        raise ImageError(f"cannot use the disk {disk}: {reason}")
    return made


def listing() -> list[ImageInfo]:
    """Return all images and the state of their cached files, without using the network."""
    recipes = load()
    return [
        *(
            _info(name, recipe, is_default=name == recipes.default)
            for name, recipe in recipes.image.items()
        ),
        *(_disk_info(name, recipe) for name, recipe in recipes.disk.items()),
    ]


def rebuild(name: str, style: Style) -> None:
    """Build the disk *name* again; raise ConfigError if there is no such disk."""
    disks = load().disk
    disk_image.build(name, disks[choose("--rebuild", name, disks)], style=style, force=True)


def main(*, as_json: bool) -> int:
    """Print the images; return the exit status."""
    infos = listing()
    if as_json:
        sys.stdout.write(json.dumps([asdict(info) for info in infos], indent=2) + "\n")
        return 0
    for info in infos:
        mark = "*" if info.is_default else " "
        state = f"{info.size_bytes >> 20} MiB, {info.release}" if info.is_cached else "not fetched"
        sys.stdout.write(f"{mark} {info.name:24}{info.suite:11}{info.description}  ({state})\n")
    return 0


def _recipe(name: str | None, arch: Architecture | None) -> ImageRecipe:
    found = load().find(name, arch)
    if isinstance(found, DiskRecipe):
        raise ConfigError(
            f"{name} is a disk: the guest boots its own kernel, so there is none to give",
            hint="cvmlab.images.disk_image.build() makes the disk, for disks=",
        )
    return found


def _from_recipe(recipe: ImageRecipe, on_step: OnStep) -> _Kernel:
    unpacked = fetch_kernel(
        recipe.kernel, recipe.suite, arch=recipe.architecture.debian, on_step=on_step
    )
    kernels = [path for place in _KERNEL_PLACES for path in unpacked.glob(place)]
    if len(kernels) != 1:
        raise ImageError(
            f"{recipe.kernel} ({recipe.suite}) should have one kernel; it has {len(kernels)}"
        )
    return _Kernel(identify(kernels[0]), ModuleTree.find(unpacked))


@dataclass(frozen=True, slots=True)
class _Task:
    """What the agent is to do in the guest: run a command, mount the shared folder."""

    command: str | None
    share: bool
    arch: Architecture

    def segment(self, *, init: bool = False) -> bytes:
        """Return the archive that tells the agent; empty if there is nothing to do."""
        if self.command is None and not self.share:
            return b""
        return initramfs.exec_segment(
            self.command, port=self.arch.agent, share=self.share, init=init
        )


@dataclass(frozen=True, slots=True)
class _Initrd:
    """The initrd, None for none, and kernel parameters that it needs."""

    path: Path | None
    append: str = ""


def _initrd(
    kernel: _Kernel, given: Path | None, modules: Sequence[str], task: _Task, append: str
) -> _Initrd:
    """Choose and make the initrd; raise ConfigError for options that would have no effect."""
    if given is None and _wants_ours(kernel, task.command, append):
        return _Initrd(_ours(kernel, modules, task))
    if modules:
        raise ConfigError(
            f"modules ({', '.join(modules)}) can be added only to the initramfs of cvmlab",
            hint="leave --initrd and root= out",
        )
    if given is not None and given != NO_INITRD:
        return _users(given, task, append)
    if task.command is not None:
        raise ConfigError(
            "a command needs an initrd that runs it",
            hint="leave root= out, or give an initrd whose init calls /cvmlab/agent",
        )
    return _Initrd(None)


def _has(append: str, parameter: str) -> bool:
    return any(word.startswith(f"{parameter}=") for word in append.split())


def _wants_ours(kernel: _Kernel, command: str | None, append: str) -> bool:
    has_root = _has(append, "root")
    is_linux = kernel.modules is not None or kernel.image.is_linux
    return not has_root and (is_linux or command is not None)


def _ours(kernel: _Kernel, modules: Sequence[str], task: _Task) -> Path:
    if modules and kernel.modules is None:
        raise ConfigError(
            f"{kernel.image.path} is not from a package, so it has no modules to add",
            hint="build the drivers into the kernel, or give an initrd that has them",
        )
    tree, arch = kernel.modules, task.arch
    unpacked = unpack(fetch(*_BUSYBOX, arch=arch.debian))
    segment = task.segment()
    # The names of both folders identify their contents.
    names = [unpacked.name, str(tree.folder) if tree and modules else "", *modules]
    key = [_LAYOUT, initramfs.scripts_digest(arch.agent), *names, "segment"]

    def make() -> bytes:
        busybox = next((unpacked / p for p in _BUSYBOX_PATHS if (unpacked / p).is_file()), None)
        if busybox is None:
            raise ImageError(f"the package {_BUSYBOX[0]} has no busybox")
        loaded = tree.load_order(modules) if tree else ()
        ours = initramfs.build(busybox.read_bytes(), loaded, port=arch.agent)
        return initramfs.append_segment(ours, segment)

    return initramfs.cached([*key, segment], make)


def _users(initrd: Path, task: _Task, append: str) -> _Initrd:
    segment = task.segment()
    if not segment:
        if not initrd.is_file():
            raise ImageError(f"there is no initrd {initrd}")
        return _Initrd(initrd)
    try:
        contents = initrd.read_bytes()
    except OSError as error:
        raise ImageError(f"initrd {initrd} cannot be read: {error.strerror}") from error
    parameters = ""
    if task.command is not None and _needs_an_init(initrd, contents, append):
        segment, parameters = task.segment(init=True), f"rdinit=/{initramfs.USERS_INIT}"
    path = initramfs.cached(
        [contents, segment], lambda: initramfs.append_segment(contents, segment)
    )
    return _Initrd(path, parameters)


def _needs_an_init(initrd: Path, contents: bytes, append: str) -> bool:
    """Return whether the init of *initrd* does not call the agent, so that ours has to be first.

    Raise ConfigError if that cannot work.  An initrd that cannot be read is taken at its word.
    """
    found = look_into(contents)
    if not found.is_known or found.calls_agent or _has(append, "rdinit"):
        return False
    if not found.has_shell:
        raise ConfigError(
            f"--exec cannot run in {initrd}: it has no /bin/sh, and its init does not call "
            "/cvmlab/agent",
            hint="give an initrd with a shell, or leave --initrd out",
        )
    if _has(append, "root"):
        raise ConfigError(
            f"--exec would run in {initrd}, and not in the system that root= names",
            hint="leave root= out to run it there; or boot the disk itself, if it has cloud-init",
        )
    return True


def _system_map(kernel: KernelImage) -> Path | None:
    """Return the System.map that was installed or built together with the kernel."""
    path = kernel.path.resolve()
    places = [path.with_name(f"System.map-{kernel.release}"), path.with_name("System.map")]
    if (tree := build_tree(path)) is not None:
        places.append(tree / "System.map")
    for place in places:
        if place.is_file() and place.stat().st_size >= _REAL_MAP_BYTES:
            return place
    return None


def _info(name: str, recipe: ImageRecipe, *, is_default: bool) -> ImageInfo:
    unpacked = cached_kernel(recipe.kernel, recipe.suite, arch=recipe.architecture.debian)
    files = unpacked.rglob("*") if unpacked else ()
    return ImageInfo(
        name=name,
        description=recipe.description,
        suite=recipe.suite,
        arch=recipe.arch,
        is_default=is_default,
        is_cached=unpacked is not None,
        release=ModuleTree.find(unpacked).release if unpacked else None,
        size_bytes=sum(path.lstat().st_size for path in files),
    )


def _disk_info(name: str, recipe: DiskRecipe) -> ImageInfo:
    built = disk_image.cached(name, recipe)
    return ImageInfo(
        name=name,
        description=recipe.description,
        suite=recipe.suite,
        arch=recipe.architecture.name,
        is_default=False,
        is_cached=built is not None,
        release=built.release if built else None,
        size_bytes=built.disk.stat().st_blocks * _STAT_BLOCK if built else 0,
    )
