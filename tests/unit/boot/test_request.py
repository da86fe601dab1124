# SPDX-License-Identifier: GPL-2.0-or-later
"""What a request is called, and what tells it from others of the same guest."""

from pathlib import Path

import pytest

from cvmlab.boot.request import Request
from cvmlab.images import recipes


pytestmark = pytest.mark.fault("U9")


def test_an_image_has_one_name() -> None:
    assert Request.of().title == Request.of(image="debian").title == recipes.load().default


@pytest.mark.parametrize(
    ("options", "variant"),
    [
        ({"coco": "tdx", "memory": "2G", "cpus": 4, "firmware": "ovmf", "image": "debian"}, ()),
        ({"name": "lab", "tb_cache": "64M", "timeout": "9", "keep": True}, ()),
        ({"on_host_access": "deny", "net": "none", "disk_interface": "virtio-blk"}, ()),
        ({"net": "user", "exec": "true"}, ("exec=true", "net=user")),
        ({"exec": "uname -a"}, ("exec=2a09cdc8",)),
        ({"disks": ["/a/b/x.img", Path("y.img")]}, ("disk=x.img", "disk=y.img")),
        ({"share": "./tests", "mapgpa": "max:2M"}, ("share=tests", "mapgpa=max:2M")),
        ({"append": "quiet debug"}, ("append=3b8ae9f5",)),
    ],
)
def test_options_that_shape_the_guest_are_told(
    options: dict[str, object], variant: tuple[str, ...]
) -> None:
    found = Request.of(**options).variant
    assert [word.partition("=")[0] for word in found] == [
        word.partition("=")[0] for word in variant
    ]
    known = {word for word in variant if len(word.partition("=")[2]) != 8}
    assert known <= set(found)


def test_other_commands_are_other_variants() -> None:
    commands = ("uname -a", "uname -r", "true")
    assert len({Request.of(exec=command).variant for command in commands}) == 3
