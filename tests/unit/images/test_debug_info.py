# SPDX-License-Identifier: GPL-2.0-or-later
"""Which vmlinux a debugger gets."""

from pathlib import Path

import pytest

from cvmlab.base.errors import ImageError
from cvmlab.images.debug_info import debug_vmlinux, has_debug_info


def test_a_kernel_that_is_not_debians_needs_a_vmlinux_of_the_users() -> None:
    with pytest.raises(ImageError, match=r"the kernel 6\.9\.0-mine is not Debian's") as caught:
        debug_vmlinux("6.9.0-mine", None)
    assert "--symbols" in str(caught.value.hint)


def test_a_guest_without_a_kernel_has_none() -> None:
    with pytest.raises(ImageError, match="nothing tells which kernel the guest runs"):
        debug_vmlinux(None, None)


def test_what_is_no_elf_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(b"no")
    with pytest.raises(ImageError, match="is not an ELF file"):
        has_debug_info(tmp_path / "vmlinux")
