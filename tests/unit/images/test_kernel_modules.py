# SPDX-License-Identifier: GPL-2.0-or-later
"""Load order of kernel modules, from their own .modinfo, in a fabricated tree."""

import lzma
import zlib
from pathlib import Path

import pytest
import zstandard

from cvmlab.base.errors import ImageError
from cvmlab.images.kernel_modules import ModuleTree
from tests.fakes.debian_archive import write_tree
from tests.fakes.kernel_files import elf, module


_RELEASE = "6.6.6-test"
_FOLDER = f"usr/lib/modules/{_RELEASE}"


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    return packer.compress(data) + packer.flush()


@pytest.fixture
def tree(tmp_path: Path) -> ModuleTree:
    drivers = f"{_FOLDER}/kernel/drivers"
    write_tree(
        tmp_path,
        {
            f"{drivers}/scsi/scsi_mod.ko.xz": lzma.compress(
                module("scsi_mod", depends=["scsi-common"])
            ),
            f"{drivers}/scsi/scsi_common.ko": module("scsi_common"),
            f"{drivers}/ata/libata.ko.zst": zstandard.compress(
                module("libata", depends=["scsi_mod", "scsi_common"])
            ),
            f"{drivers}/ata/libahci.ko.gz": _gzip(module("libahci", depends=["libata"])),
            f"{drivers}/ata/ahci.ko": module(
                "ahci",
                depends=["libahci", "libata"],
                aliases=["pci:v*d*sv*sd*bc01sc06i01*"],
                softdep="pre: t10-pi missing post: late",
            ),
            f"{drivers}/t10-pi.ko": module("t10_pi"),
            f"{drivers}/late.ko": module("late"),
            f"{drivers}/broken.ko": module("broken", depends=["not_shipped"]),
            f"{drivers}/ping.ko": module("ping", depends=["pong"]),
            f"{drivers}/pong.ko": module("pong", depends=["ping"]),
            f"{_FOLDER}/modules.builtin": b"kernel/drivers/virtio/virtio-ring.ko\n",
            f"{_FOLDER}/modules.builtin.modinfo": b"virtio_ring.alias=virtio:d0001v*\0",
        },
    )
    return ModuleTree.find(tmp_path)


def _order(tree: ModuleTree, *names: str) -> list[str]:
    return [module.name for module in tree.load_order(names)]


def test_the_release_is_the_folders_name(tree: ModuleTree) -> None:
    assert tree.release == _RELEASE


def test_what_a_module_needs_comes_before_it_through_every_compression(tree: ModuleTree) -> None:
    order = _order(tree, "ahci")
    assert order == ["t10_pi", "scsi_common", "scsi_mod", "libata", "libahci", "ahci"]


def test_no_module_is_loaded_twice(tree: ModuleTree) -> None:
    assert _order(tree, "libata", "ahci", "libata").count("libata") == 1


def test_order_of_the_request_is_kept(tree: ModuleTree) -> None:
    assert _order(tree, "late", "scsi_common") == ["late", "scsi_common"]


def test_dashes_and_underscores_are_the_same(tree: ModuleTree) -> None:
    assert _order(tree, "scsi-mod") == _order(tree, "scsi_mod")


def test_a_built_in_module_needs_nothing(tree: ModuleTree) -> None:
    assert _order(tree, "virtio_ring", "virtio-ring") == []


def test_an_alias_stands_for_its_module(tree: ModuleTree) -> None:
    assert _order(tree, "pci:v00008086d00002922sv0sd0bc01sc06i01")[-1] == "ahci"


def test_an_alias_may_be_built_in(tree: ModuleTree) -> None:
    assert _order(tree, "virtio:d0001v1af4") == []


def test_modules_that_need_each_other_do_not_loop(tree: ModuleTree) -> None:
    assert sorted(_order(tree, "ping")) == ["ping", "pong"]


def test_contents_are_the_elf_file(tree: ModuleTree) -> None:
    for found in tree.load_order(["ahci"]):
        assert found.contents().startswith(b"\x7fELF")


@pytest.mark.parametrize("name", ["libatta", "pci:v0001", "nothing-like-it"])
def test_an_unknown_module_is_named(tree: ModuleTree, name: str) -> None:
    with pytest.raises(ImageError, match=f"has no module '{name}'"):
        tree.load_order([name])


def test_the_nearest_name_is_suggested(tree: ModuleTree) -> None:
    with pytest.raises(ImageError) as caught:
        tree.load_order(["libatta"])
    assert caught.value.hint == "did you mean libata?"


def test_a_dependency_that_is_not_there_is_named_with_who_needs_it(tree: ModuleTree) -> None:
    with pytest.raises(ImageError, match=f"module broken of {_RELEASE} needs not_shipped"):
        tree.load_order(["broken"])


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("bad.ko", b"\x7fELF"),
        ("bad.ko", elf({".text": b""})),
        ("bad.ko.xz", b"\xfd7zXZ\0 cut"),
        ("bad.ko.zst", b"\x28\xb5\x2f\xfd cut"),
        ("bad.ko.gz", b"\x1f\x8b cut"),
    ],
)
def test_a_damaged_module_is_an_error_of_the_image(
    tmp_path: Path, name: str, contents: bytes
) -> None:
    write_tree(tmp_path, {f"{_FOLDER}/{name}": contents})
    with pytest.raises(ImageError, match=name):
        ModuleTree.find(tmp_path).load_order(["bad"])


def test_a_package_without_modules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="it has none"):
        ModuleTree.find(tmp_path)


def test_modules_of_two_kernels_are_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, {"lib/modules/1/a.ko": b"", "usr/lib/modules/2/a.ko": b""})
    with pytest.raises(ImageError, match="it has 2, 1"):
        ModuleTree.find(tmp_path)
