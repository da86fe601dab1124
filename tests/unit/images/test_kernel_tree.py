# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel's build tree stands for the kernel in it; its configuration says what it can."""

from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.images.kernel_tree import build_tree, has_9p, kernel_file, missing_for_a_disk
from cvmlab.profiles.architecture import AARCH64, X86_64
from tests.fakes.kernel_files import arm64_image, bzimage


_CONFIG = "CONFIG_9P_FS=y\nCONFIG_NET_9P=y\nCONFIG_NET_9P_VIRTIO=y\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    kernel = tmp_path / "arch/x86/boot/bzImage"
    kernel.parent.mkdir(parents=True)
    kernel.write_bytes(bzimage("6.18.0-rc1"))
    return tmp_path


def test_a_tree_stands_for_its_kernel(tree: Path) -> None:
    assert kernel_file(tree) == tree / "arch/x86/boot/bzImage"
    assert kernel_file(tree / "arch/x86/boot/bzImage") == tree / "arch/x86/boot/bzImage"
    assert kernel_file(None) is None


def test_a_tree_that_is_not_built_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no arch/x86/boot/bzImage") as caught:
        kernel_file(tmp_path)
    assert "make bzImage" in (caught.value.hint or "")


def test_a_tree_of_another_architecture_stands_for_its_kernel_too(tmp_path: Path) -> None:
    kernel = tmp_path / AARCH64.kernel.in_build_tree
    kernel.parent.mkdir(parents=True)
    kernel.write_bytes(arm64_image())
    assert kernel_file(tmp_path) == kernel_file(tmp_path, AARCH64) == kernel
    assert build_tree(kernel) == tmp_path
    with pytest.raises(ConfigError, match=r"has no arch/x86/boot/bzImage$"):
        kernel_file(tmp_path, X86_64)


@pytest.mark.parametrize("place", [".config", "arch/x86/boot/config-6.18.0-rc1"])
def test_a_configuration_beside_the_kernel_is_believed(tree: Path, place: str) -> None:
    kernel = tree / "arch/x86/boot/bzImage"
    assert not has_9p(kernel)
    (tree / place).write_text(_CONFIG)
    assert has_9p(kernel)
    (tree / place).write_text(_CONFIG.replace("VIRTIO=y", "VIRTIO=m"))  # who would load it?
    assert not has_9p(kernel)


def test_a_file_that_is_no_kernel_is_refused_by_others(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    assert not has_9p(tmp_path / "text")


@pytest.mark.fault("U3")
def test_drivers_that_a_shared_disk_needs_are_named(tree: Path) -> None:
    kernel = tree / "arch/x86/boot/bzImage"
    assert missing_for_a_disk(kernel) == ()  # nothing is known
    (tree / ".config").write_text("CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_BLK=m\nCONFIG_EXT4_FS=y\n")
    assert missing_for_a_disk(kernel) == ("CONFIG_VIRTIO_BLK",)
