# SPDX-License-Identifier: GPL-2.0-or-later
"""From the name of an image, or a user's own files, to the files that QEMU boots."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cvmlab import diskimage, initramfs
from cvmlab.aptcall import run
from cvmlab.choices import choose
from cvmlab.errors import ConfigError, ImageError
from cvmlab.kernel_image import X86_64, KernelImage, KernelKind, identify
from cvmlab.modules import ModuleTree
from cvmlab.packages import OnStep, cached_kernel, fetch, fetch_kernel, silent, unpack
from cvmlab.progress import Style
from cvmlab.recipes import DiskRecipe, Recipe, load


NO_INITRD = Path("none")  # what to give as initrd to boot without one
# busybox is the same for all images: one suite's lists to fetch, and one behaviour in tests.
_BUSYBOX = ("busybox-static", "trixie")
_BUSYBOX_PATHS = ("usr/bin/busybox", "bin/busybox")
_KERNEL_PLACES = ("boot/vmlinu[xz]-*", "usr/lib/modules/*/vmlinuz")  # until and since 6.17
_LAYOUT = "1"  # of our initramfs; a new number makes cached ones be built again
_REAL_MAP_BYTES = 4096  # Debian's System.map is one line that names another package
_STAT_BLOCK = 512
_BZIMAGE_DEPTH = 3  # arch/x86/boot/ in a build folder
_QEMU_IMG_DEADLINE_S = 60


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What to boot.  ``append`` comes after the machine's own kernel parameters.

    ``release`` is what ``uname -r`` will say, if known; ``system_map`` is a real one.
    """

    kernel: Path
    initrd: Path | None
    append: str
    release: str | None
    system_map: Path | None
    arch: str


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """A line of ``cvmlab images``; ``size_bytes`` and ``release`` are of what is in the cache."""

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
    image: str | Recipe | None = None,
    *,
    kernel: Path | None = None,
    initrd: Path | None = None,
    append: str = "",
    extra_modules: Sequence[str] = (),
    exec_command: str | None = None,
    arch: str = X86_64,
    on_step: OnStep = silent,
) -> BootFiles:
    """Return the files to boot, fetching and building what is not in the cache.

    *image* is a recipe or the name of one (None: the default); or *kernel* is the user's own.
    Without *initrd* an image, and a Linux kernel that is not told ``root=``, gets ours;
    NO_INITRD means none.  *exec_command* is a line of shell to run in the guest: our init does,
    another has to call ``/cvmlab/agent``.  Raises ConfigError or ImageError.
    """
    if kernel is not None and image is not None:
        raise ConfigError(
            "an image and --kernel: only one can be booted", hint="leave one of them out"
        )
    if kernel is None:
        recipe = image if isinstance(image, Recipe) else _recipe(image)
        found = _from_recipe(recipe, on_step)
        words, names = f"{recipe.append} {append}".strip(), (*recipe.modules, *extra_modules)
    else:
        found, words, names = _Kernel(identify(kernel), None), append, tuple(extra_modules)
    found.image.require_bootable(arch)
    return BootFiles(
        kernel=found.image.path,
        initrd=_initrd(found, initrd, names, exec_command, words),
        append=words,
        release=found.modules.release if found.modules else found.image.release,
        system_map=_system_map(found.image),
        arch=found.image.arch,
    )


def image_has(image: str | None, modules: Sequence[str], *, on_step: OnStep = silent) -> bool:
    """Tell whether the kernel of *image* has all *modules*, built in or not."""
    tree = _from_recipe(_recipe(image), on_step).modules
    return tree is not None and all(name in tree.files or name in tree.builtin for name in modules)


def overlay(
    disk: Path,
    run_dir: Path,
    qemu_img: Path,
    *,
    disk_format: str | None = None,
    name: str | None = None,
) -> Path:
    """Make a qcow2 file in *run_dir* that takes what the guest writes; *disk* stays as it is.

    A disk whose format is not said is of the one it looks like.
    """
    if not disk.is_file():
        raise ImageError(f"there is no disk {disk}")
    if disk_format is None:
        told = _qemu_img(qemu_img, "info", "--force-share", "--output=json", str(disk.absolute()))
        disk_format = json.loads(told)["format"]
    made = run_dir / (name or f"{disk.name}.overlay.qcow2")
    backing = ("-F", disk_format, "-b", str(disk.absolute()))
    _qemu_img(qemu_img, "create", "-q", "-f", "qcow2", *backing, str(made.absolute()))
    return made


def listing() -> list[ImageInfo]:
    """Return all images with what is in the cache of each; asks no network."""
    recipes = load()
    return [
        *(
            _info(name, recipe, is_default=name == recipes.default)
            for name, recipe in recipes.image.items()
        ),
        *(_disk_info(name, recipe) for name, recipe in recipes.disk.items()),
    ]


def rebuild(name: str, style: Style) -> None:
    """Build the disk *name* again; raise ConfigError if it is none."""
    disks = load().disk
    diskimage.build(name, disks[choose("--rebuild", name, disks)], style=style, force=True)


def main(*, as_json: bool) -> int:
    """Print the images; return the exit status."""
    infos = listing()
    if as_json:
        sys.stdout.write(json.dumps([asdict(info) for info in infos], indent=2) + "\n")
        return 0
    for info in infos:
        mark = "*" if info.is_default else " "
        state = f"{info.size_bytes >> 20} MiB, {info.release}" if info.is_cached else "not fetched"
        sys.stdout.write(f"{mark} {info.name:18}{info.suite:11}{info.description}  ({state})\n")
    return 0


def _recipe(name: str | None) -> Recipe:
    found = load().find(name)
    if isinstance(found, DiskRecipe):
        raise ConfigError(
            f"{name} is a disk, and what boots from one has no kernel to give",
            hint="cvmlab.diskimage.build() makes the disk, for disks=",
        )
    return found


def _from_recipe(recipe: Recipe, on_step: OnStep) -> _Kernel:
    unpacked = fetch_kernel(recipe.kernel, recipe.suite, arch=recipe.debian_arch, on_step=on_step)
    kernels = [path for place in _KERNEL_PLACES for path in unpacked.glob(place)]
    if len(kernels) != 1:
        raise ImageError(
            f"{recipe.kernel} ({recipe.suite}) should have one kernel; it has {len(kernels)}"
        )
    return _Kernel(identify(kernels[0]), ModuleTree.find(unpacked))


def _initrd(
    kernel: _Kernel,
    given: Path | None,
    modules: Sequence[str],
    command: str | None,
    append: str,
) -> Path | None:
    """Choose and make the initrd; raise ConfigError for what would have no effect in it."""
    if given is None and _wants_ours(kernel, command, append):
        return _ours(kernel, modules, command)
    if modules:
        raise ConfigError(
            f"modules ({', '.join(modules)}) can be added to the initramfs of cvmlab only",
            hint="leave --initrd and root= out",
        )
    if given is not None and given != NO_INITRD:
        return _users(given, command)
    if command is not None:
        raise ConfigError(
            "a command to run needs an initrd that runs it",
            hint="leave root= out, or give an initrd whose init calls /cvmlab/agent",
        )
    return None


def _wants_ours(kernel: _Kernel, command: str | None, append: str) -> bool:
    has_root = any(word.startswith("root=") for word in append.split())
    is_linux = kernel.modules is not None or kernel.image.kind is not KernelKind.ELF
    return not has_root and (is_linux or command is not None)


def _ours(kernel: _Kernel, modules: Sequence[str], command: str | None) -> Path:
    if modules and kernel.modules is None:
        raise ConfigError(
            f"{kernel.image.path} has no package to take modules from",
            hint="build the drivers into the kernel, or give an initrd that has them",
        )
    tree = kernel.modules
    unpacked = unpack(fetch(*_BUSYBOX))
    # Both folders are named by what they contain.
    names = [unpacked.name, str(tree.folder) if tree and modules else "", *modules]
    key = [_LAYOUT, initramfs.scripts_digest(), *names, "exec", command or ""]

    def make() -> bytes:
        busybox = next((unpacked / p for p in _BUSYBOX_PATHS if (unpacked / p).is_file()), None)
        if busybox is None:
            raise ImageError(f"the package {_BUSYBOX[0]} has no busybox")
        loaded = tree.load_order(modules) if tree else ()
        base = initramfs.build(busybox.read_bytes(), loaded)
        return base if command is None else _with_command(base, command)

    return initramfs.cached(key, make)


def _users(initrd: Path, command: str | None) -> Path:
    if command is None:
        if not initrd.is_file():
            raise ImageError(f"there is no initrd {initrd}")
        return initrd
    try:
        contents = initrd.read_bytes()
    except OSError as error:
        raise ImageError(f"initrd {initrd} cannot be read: {error.strerror}") from error
    return initramfs.cached([contents, command], lambda: _with_command(contents, command))


def _with_command(initrd: bytes, command: str) -> bytes:
    return initramfs.append_segment(initrd, initramfs.exec_segment(command))


def _system_map(kernel: KernelImage) -> Path | None:
    """The map that was installed, or built, together with the kernel."""
    path = kernel.path.resolve()
    places = [path.with_name(f"System.map-{kernel.release}"), path.with_name("System.map")]
    if path.name == "bzImage" and len(path.parents) > _BZIMAGE_DEPTH:
        places.append(path.parents[_BZIMAGE_DEPTH] / "System.map")
    for place in places:
        if place.is_file() and place.stat().st_size >= _REAL_MAP_BYTES:
            return place
    return None


def _info(name: str, recipe: Recipe, *, is_default: bool) -> ImageInfo:
    unpacked = cached_kernel(recipe.kernel, recipe.suite, arch=recipe.debian_arch)
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
    built = diskimage.cached(name, recipe)
    return ImageInfo(
        name=name,
        description=recipe.description,
        suite=recipe.suite,
        arch=X86_64,
        is_default=False,
        is_cached=built is not None,
        release=built.release if built else None,
        size_bytes=built.disk.stat().st_blocks * _STAT_BLOCK if built else 0,
    )


def _qemu_img(qemu_img: Path, *arguments: str) -> str:
    status, output, errors = run(
        [str(qemu_img), *arguments], what="qemu-img", deadline_s=_QEMU_IMG_DEADLINE_S
    )
    if status != 0:
        raise ImageError((errors.strip().splitlines() or [f"qemu-img failed ({status})"])[-1])
    return output
