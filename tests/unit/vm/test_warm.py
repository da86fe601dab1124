# SPDX-License-Identifier: GPL-2.0-or-later
"""Which boots can be kept for a warm one."""

from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.machine.options import boot_spec
from cvmlab.vm.warm import key_for


def test_ordinary_memory_is_not_kept() -> None:
    assert key_for(boot_spec(coco="off", arch="aarch64"), Path("qemu")) is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"gdb": "tcp::1"}, "--warm and --gdb exclude each other"),
        ({"coco": "cca"}, "--warm cannot keep a guest of aarch64"),
        ({"coco": "generic", "arch": "aarch64"}, "its serial port stops QEMU"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_a_hint(options: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as refused:
        key_for(boot_spec(**options), Path("qemu"))
    assert refused.value.hint
