# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU for another architecture is built when it is asked for, and beside the default one."""

import os
from pathlib import Path

import pytest

from cvmlab.base.errors import BuildError
from cvmlab.base.progress import Style
from cvmlab.profiles.architecture import AARCH64, X86_64
from cvmlab.qemu import build
from cvmlab.qemu.firmware import give_back_zeros
from cvmlab.qemu.recipe import Flavour, Recipe, build_record, builds_dir, recipe_for
from cvmlab.qemu.source import Source, device_files
from cvmlab.qemu.tuning import Tuning
from tests.fakes.programs import Programs


def recipe(source: Path, flavour: Flavour = Flavour.PATCHED, **given: object) -> Recipe:
    return recipe_for(flavour, Source.at(source), Tuning.PLAIN, **given)  # type: ignore[arg-type]


def test_each_architecture_has_a_build_of_its_own(programs: Programs, source: Path) -> None:
    pc = build.install(Flavour.STOCK, source=source, style=Style.NONE)
    arm = build.install(Flavour.STOCK, source=source, architecture=AARCH64, style=Style.NONE)
    assert {path.name for path in (arm / "bin").iterdir()} == {
        "qemu-system-aarch64", "qemu-img", "qemu-io",
    }  # fmt: skip
    record = build_record(arm) or {}
    assert record["architecture"] == "aarch64"
    assert "--target-list=aarch64-softmmu" in record["options"]
    assert "--enable-kvm" not in record["options"]  # KVM is of the machine's own architecture
    assert (builds_dir() / "build-aarch64-stock.log").is_file()
    assert pc.is_dir()
    assert build.install(Flavour.STOCK, source=source, style=Style.NONE) == pc
    assert len(programs.calls("ninja")) == 2


def test_old_builds_of_one_architecture_do_not_push_out_those_of_another(
    programs: Programs, source: Path
) -> None:
    pc = build.install(Flavour.STOCK, source=source, style=Style.NONE)
    for change in range(8):
        (source / "hw" / "new.c").write_text("\n" * change)
        build.install(Flavour.STOCK, source=source, architecture=AARCH64, style=Style.NONE)
    assert pc.is_dir()
    assert len(list(builds_dir().glob("*/build.json"))) == 1 + 6


def test_who_never_asks_for_arm_never_pays(programs: Programs, source: Path) -> None:
    """What belongs to another target is in no build of this one."""
    assert recipe(source).options[0] == "--target-list=x86_64-softmmu"
    assert not [word for word in recipe(source).options if "aarch64" in word]
    assert [path.parent.name for path in recipe(source).devices] == ["x86_64-softmmu"]
    assert recipe(source).programs == ("qemu-system-x86_64", "qemu-img", "qemu-io")


def test_lists_of_devices_are_those_of_the_targets(programs: Programs, source: Path) -> None:
    assert recipe(source, architecture=AARCH64).devices == device_files(["aarch64-softmmu"])
    assert len(recipe(source, Flavour.TARGETS).devices) == 2
    assert len({recipe(source, architecture=row).key() for row in (X86_64, AARCH64)}) == 2


def test_a_qemu_that_is_not_built_is_named_with_its_architecture(programs: Programs) -> None:
    with pytest.raises(BuildError) as caught:
        build.qemu_binary(None, AARCH64, build=False)
    assert caught.value.message == "QEMU for aarch64 is not built yet"
    assert caught.value.hint == "run `cvmlab build --arch aarch64`"


def test_each_architecture_has_a_variable_that_names_its_qemu(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = programs.add("my-qemu", "echo 'QEMU emulator version 10.0.7 (mine)'")
    monkeypatch.setenv("CVMLAB_QEMU_AARCH64", os.fspath(qemu))
    assert build.qemu_binary(None, AARCH64) == qemu
    assert build.identity(None, AARCH64)["version"] == "10.0.7"
    with pytest.raises(BuildError, match="QEMU is not built yet"):
        build.qemu_binary(build=False)


def test_a_flash_image_takes_no_room_for_zeros(tmp_path: Path) -> None:
    image = tmp_path / "usr" / "flash.fd"
    image.parent.mkdir()
    content = b"code" * 1000 + bytes(40 << 20) + b"end"
    image.write_bytes(content)
    (tmp_path / "link").symlink_to(image)
    give_back_zeros(tmp_path)
    assert image.read_bytes() == content
    assert image.stat().st_blocks * 512 < 1 << 20
