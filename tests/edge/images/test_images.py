# SPDX-License-Identifier: GPL-2.0-or-later
"""Recipes, and the way from an image or a user's files to what QEMU boots."""

import json
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cvmlab.base.errors import ConfigError, CvmError, ImageError
from cvmlab.base.progress import Style
from cvmlab.base.resources import guest_images_dir
from cvmlab.images import boot_files, cpio, disk_image, initramfs, recipes
from cvmlab.images.boot_files import NO_INITRD, BootFiles, listing, overlay, resolve
from cvmlab.images.cpio import CpioEntry
from cvmlab.images.recipes import ImageRecipe
from cvmlab.profiles.architecture import AARCH64, ARCHITECTURES
from tests.fakes.cpio_reader import read_archive
from tests.fakes.debian_archive import DebianArchive
from tests.fakes.kernel_files import EM_386, bzimage, elf, module, multiboot_header, pvh_note


needs_apt = pytest.mark.skipif(
    shutil.which("apt-get") is None, reason="apt is not installed: not Debian or Ubuntu"
)
_RELEASE = "6.12.1-cloud-amd64"
_RECIPE = ImageRecipe(kernel="linux-image-cloud-amd64", suite="trixie", append="quiet")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive that has a kernel and busybox, and room for a cache."""
    root = tmp_path_factory.mktemp("machine")
    made = DebianArchive(root)
    made.add("busybox-static", {"usr/bin/busybox": b"busybox"})
    made.add("linux-image-cloud-amd64", {}, depends=f"linux-image-{_RELEASE}")
    made.add(f"linux-image-{_RELEASE}", _kernel_package())
    made.add("linux-image-9.9-empty", {"usr/lib/modules/9.9/kernel/a.ko": module("a")})
    return root


@pytest.fixture
def cache(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of that machine: whatever tests have fetched before is there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine / "cache"))
    monkeypatch.setenv("APT_CONFIG", str(machine / "machine" / "apt.conf"))
    return machine / "cache"


@pytest.fixture
def empty_cache(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another, with nothing in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _kernel_package() -> Mapping[str, bytes]:
    modules = f"usr/lib/modules/{_RELEASE}"
    return {
        f"boot/vmlinuz-{_RELEASE}": bzimage(_RELEASE),
        f"boot/System.map-{_RELEASE}": b"ffffffffffffffff B The real System.map is elsewhere\n",
        f"{modules}/kernel/nvme.ko": module("nvme", depends=["nvme_core"]),
        f"{modules}/kernel/nvme-core.ko": module("nvme_core"),
        f"{modules}/modules.builtin": b"kernel/drivers/virtio/virtio.ko\n",
    }


def _contents(files: BootFiles) -> bytes:
    assert files.initrd is not None
    return files.initrd.read_bytes()


@needs_apt
def test_an_image_is_a_kernel_with_our_initramfs(cache: Path) -> None:
    files = resolve(_RECIPE, append="debug")
    assert files.kernel.name == f"vmlinuz-{_RELEASE}"
    assert (files.release, files.arch, files.append) == (_RELEASE, "x86_64", "quiet debug")
    assert files.system_map is None  # Debian's is a placeholder
    assert read_archive(_contents(files))["bin/busybox"].data == b"busybox"


@needs_apt
def test_the_second_time_everything_is_there(cache: Path) -> None:
    first = resolve(_RECIPE, exec_command="true", extra_modules=["nvme"])
    steps: list[str] = []
    again = resolve(_RECIPE, exec_command="true", extra_modules=["nvme"], on_step=steps.append)
    assert (again, steps) == (first, [])


@needs_apt
def test_a_command_is_appended_to_the_same_initramfs(cache: Path) -> None:
    plain, with_command = resolve(_RECIPE), resolve(_RECIPE, exec_command="exit 7")
    expected = initramfs.append_segment(_contents(plain), initramfs.exec_segment("exit 7"))
    assert _contents(with_command) == expected


@needs_apt
def test_modules_of_recipe_and_request_are_loaded_in_order(cache: Path) -> None:
    recipe = ImageRecipe(kernel=_RECIPE.kernel, suite="trixie", modules=("virtio", "nvme_core"))
    found = read_archive(_contents(resolve(recipe, extra_modules=["nvme"])))
    listed = found["cvmlab/modules"].data.decode().split()
    assert [Path(path).stem for path in listed] == ["nvme_core", "nvme"]


@needs_apt
def test_an_unknown_module_is_refused_and_nothing_is_cached(cache: Path) -> None:
    with pytest.raises(ImageError, match="has no module 'nvmee'") as caught:
        resolve(_RECIPE, extra_modules=["nvmee"])
    assert caught.value.hint == "did you mean nvme?"


@needs_apt
def test_an_image_may_have_the_users_initrd(cache: Path, tmp_path: Path) -> None:
    initrd = tmp_path / "mine.img"
    initrd.write_bytes(b"mine!")
    assert resolve(_RECIPE, initrd=initrd).initrd == initrd
    joined = _contents(resolve(_RECIPE, initrd=initrd, exec_command="true"))
    assert joined == b"mine!\0\0\0" + initramfs.exec_segment("true")
    assert resolve(_RECIPE, initrd=NO_INITRD).initrd is None


@needs_apt
def test_a_kernel_package_without_a_kernel_is_refused(cache: Path) -> None:
    with pytest.raises(ImageError, match="should have one kernel; it has 0"):
        resolve(ImageRecipe(kernel="linux-image-9.9-empty", suite="trixie"))


@needs_apt
def test_a_users_linux_kernel_gets_our_initramfs(cache: Path, tmp_path: Path) -> None:
    kernel = tmp_path / "bzImage"
    kernel.write_bytes(bzimage("6.18.0-rc1"))
    files = resolve(kernel=kernel)
    assert (files.kernel, files.release) == (kernel, "6.18.0-rc1")
    assert read_archive(_contents(files))["init"].mode & 0o111


def test_a_linux_kernel_that_is_told_its_root_gets_none(tmp_path: Path) -> None:
    kernel = tmp_path / "bzImage"
    kernel.write_bytes(bzimage())
    assert resolve(kernel=kernel, append="root=/dev/vda1 ro").initrd is None


@pytest.mark.parametrize(
    "data",
    [elf({".note.Xen": pvh_note(0x100000)}), elf({".text": multiboot_header()}, EM_386)],
    ids=["pvh", "multiboot"],
)
def test_a_bare_metal_guest_gets_no_initramfs(tmp_path: Path, data: bytes) -> None:
    kernel = tmp_path / "guest.elf"
    kernel.write_bytes(data)
    files = resolve(kernel=kernel)
    assert (files.initrd, files.release) == (None, None)


@pytest.mark.parametrize("name", ["System.map", "System.map-6.6.6-test", "../../../System.map"])
def test_the_map_of_a_users_kernel_is_found(tmp_path: Path, name: str) -> None:
    boot = tmp_path / "arch/x86/boot"
    boot.mkdir(parents=True)
    (boot / "bzImage").write_bytes(bzimage())
    (boot / name).write_bytes(b"ffffffff81000000 T _text\n" * 200)
    found = resolve(kernel=boot / "bzImage", initrd=NO_INITRD).system_map
    assert found == (boot / name).resolve()


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ({"image": "debian", "kernel": "bzImage"}, ConfigError, "cannot be combined"),
        ({"kernel": "missing"}, ImageError, "missing cannot be read"),
        ({"kernel": "text"}, ImageError, "is not a kernel"),
        ({"kernel": "bzImage", "arch": AARCH64}, ConfigError, "is a kernel for x86_64"),
        ({"kernel": "bzImage", "initrd": "missing"}, ImageError, "there is no initrd"),
        (
            {"kernel": "bzImage", "initrd": "missing", "exec_command": "true"},
            ImageError,
            "cannot be read",
        ),
        (
            {"kernel": "bzImage", "append": "root=/dev/vda", "exec_command": "true"},
            ConfigError,
            "needs an initrd that runs it",
        ),
        (
            {"kernel": "bzImage", "initrd": "none", "exec_command": "true"},
            ConfigError,
            "needs an initrd that runs it",
        ),
        (
            {"kernel": "bzImage", "initrd": "text", "extra_modules": ["nvme"]},
            ConfigError,
            "can be added only to the initramfs of cvmlab",
        ),
        (
            {"kernel": "bzImage", "extra_modules": ["nvme"]},
            ConfigError,
            "it has no modules to add",
        ),
        ({"image": "debain"}, ConfigError, "there is no 'debain'"),
    ],
)
def test_what_cannot_be_booted_is_refused(
    tmp_path: Path, request_: dict[str, Any], error: type[CvmError], message: str
) -> None:
    (tmp_path / "bzImage").write_bytes(bzimage())
    (tmp_path / "text").write_text("hello")
    for name in ("kernel", "initrd"):
        if name in request_ and request_[name] != "none":
            request_ = {**request_, name: tmp_path / request_[name]}
        elif name in request_:
            request_ = {**request_, name: NO_INITRD}
    with pytest.raises(error, match=message):
        resolve(**request_)


def test_a_disk_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is no disk"):
        overlay(tmp_path / "missing.qcow2", tmp_path, Path("qemu-img"))


def test_the_shipped_recipes_are_valid_and_default_is_debian() -> None:
    shipped = recipes.load()
    assert shipped.find(None) == shipped.image["debian"]
    assert {"debian", "debian-bookworm", "debian-backports", "debian-sid"} <= set(shipped.image)


def test_each_architecture_has_a_default_image() -> None:
    shipped = recipes.load()
    for row in ARCHITECTURES:
        found = shipped.find(None, row)
        assert found.architecture is row
        assert shipped.find(None, found.architecture) == found
    lonely = recipes.parse({"default": "a", "image": {"a": {"kernel": "k", "suite": "sid"}}})
    with pytest.raises(ConfigError, match="there is no image for aarch64"):
        lonely.find(None, AARCH64)


_GOOD: dict[str, Any] = {"default": "a", "image": {"a": {"kernel": "k", "suite": "sid"}}}


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"modul": ["x"]}, "unknown field `modul`", "did you mean modules?"),
        ({"suite": "trixi"}, "there is no 'trixi'", "did you mean trixie?"),
        ({"arch": "x86-64"}, "there is no 'x86-64'", "did you mean x86_64?"),
        ({"modules": "nvme"}, "Expected `array`, got `str`", "the top of"),
        ({"modules": [1]}, "Expected `str`, got `int`", "the top of"),
    ],
)
def test_a_wrong_recipe_is_refused_with_a_suggestion(
    change: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        recipes.parse({**_GOOD, "image": {"a": {**_GOOD["image"]["a"], **change}}})
    assert message in caught.value.message
    assert (caught.value.hint or "").startswith(hint)


_DISK: dict[str, Any] = {"suite": "trixie", "boot": "grub"}


@pytest.mark.parametrize(
    ("name", "change", "message", "hint"),
    [
        ("b", {"boot": "lilo"}, "Invalid enum value 'lilo'", "the top of"),
        ("b", {"pakages": ["x"]}, "unknown field `pakages`", "did you mean packages?"),
        ("b", {"suite": "trixi"}, "there is no 'trixi'", "did you mean trixie?"),
        ("b", {"size": "big"}, "'big' is not a size", "write a number of bytes"),
        ("b", {"size": "100M"}, "b: a disk of 100M is too small for a system", "use 512M"),
        ("a", {}, "a is the name of an image and of a disk", "rename one"),
    ],
)
def test_a_wrong_recipe_of_a_disk_is_refused(
    name: str, change: dict[str, Any], message: str, hint: str
) -> None:
    assert recipes.parse({**_GOOD, "disk": {"b": _DISK}}).disk["b"].size_bytes == 1 << 30
    with pytest.raises(ConfigError) as caught:
        recipes.parse({**_GOOD, "disk": {name: {**_DISK, **change}}})
    assert message in caught.value.message
    assert (caught.value.hint or "").startswith(hint)


def test_a_disk_has_no_kernel_to_give(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="debian-disk is a disk"):
        resolve("debian-disk")


@needs_apt
def test_a_disk_is_not_built_offline(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVMLAB_OFFLINE", "1")
    monkeypatch.setenv("CVMLAB_NO_INSTALL", "1")
    with pytest.raises((ImageError, ConfigError), match=r"not in the cache|packages are missing"):
        disk_image.build("debian-disk", recipes.load().disk["debian-disk"], style=Style.NONE)
    assert not list(empty_cache.glob("cvmlab/disks/*/*"))


def test_a_default_that_is_no_image_is_refused() -> None:
    with pytest.raises(ConfigError, match="default: there is no 'b'"):
        recipes.parse({**_GOOD, "default": "b"})


@pytest.mark.parametrize("text", ["default = ", "default = 1\n", "\xff"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "images.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"images\.toml"):
        recipes.load(path)


@needs_apt
def test_the_listing_tells_what_is_in_the_cache(
    empty_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not any(info.is_cached for info in listing())
    resolve("debian")
    by_name = {info.name: info for info in listing()}
    assert by_name["debian"].is_cached
    assert by_name["debian"].is_default
    assert by_name["debian"].release == _RELEASE
    assert by_name["debian"].size_bytes > sum(map(len, _kernel_package().values()))
    assert not by_name["debian-sid"].is_cached
    assert boot_files.main(as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert [image["name"] for image in told] == list(by_name)
    assert boot_files.main(as_json=False) == 0
    assert _RELEASE in capsys.readouterr().out


def test_scripts_in_the_repository_are_executable() -> None:
    for folder in ("initramfs", "disk/usr/lib/cvmlab"):
        scripts = list((guest_images_dir() / folder).iterdir())
        assert scripts
        for path in scripts:
            assert path.read_bytes().startswith(b"#!")
            assert path.stat().st_mode & stat.S_IXUSR, path.name


def _initrd(folder: Path, *entries: CpioEntry) -> Path:
    path = folder / "initrd.img"
    path.write_bytes(cpio.archive(entries))
    return path


_SHELL = CpioEntry.file("bin/sh", b"elf", 0o755)


@pytest.mark.fault("U4")
@needs_apt
def test_an_ordinary_initrd_gets_an_init_that_runs_the_command(cache: Path, tmp_path: Path) -> None:
    initrd = _initrd(tmp_path, _SHELL, CpioEntry.file("init", b"#!/bin/sh\n"))
    plain = resolve(_RECIPE, initrd=initrd)
    assert (plain.initrd, plain.append) == (initrd, "quiet")
    found = resolve(_RECIPE, initrd=initrd, exec_command="true")
    assert found.append == "quiet rdinit=/cvmlab/init"
    joined = initrd.read_bytes() + initramfs.exec_segment("true", init=True)
    assert _contents(found) == joined
    own = resolve(_RECIPE, initrd=initrd, exec_command="true", append="rdinit=/mine")
    assert own.append == "quiet rdinit=/mine"


@pytest.mark.fault("U4")
@needs_apt
def test_an_initrd_that_cannot_run_a_command_is_refused(cache: Path, tmp_path: Path) -> None:
    initrd = _initrd(tmp_path, CpioEntry.file("init", b"elf"))
    with pytest.raises(ConfigError, match="it has no /bin/sh, and its init does not call"):
        resolve(_RECIPE, initrd=initrd, exec_command="true")
    initrd = _initrd(tmp_path, _SHELL)
    with pytest.raises(ConfigError, match="and not in the system that root= names"):
        resolve(_RECIPE, initrd=initrd, exec_command="true", append="root=/dev/vda1")


@pytest.mark.fault("U3")
@needs_apt
def test_the_agent_is_told_of_a_shared_folder(cache: Path, tmp_path: Path) -> None:
    initrd = tmp_path / "mine.img"
    initrd.write_bytes(b"mine")
    for given in (None, initrd):
        shared = _contents(resolve(_RECIPE, initrd=given, share=True))
        assert shared.endswith(initramfs.exec_segment(None, share=True))
