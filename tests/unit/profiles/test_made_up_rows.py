# SPDX-License-Identifier: GPL-2.0-or-later
"""A row that is made up here shows wherever rows are listed or used: nothing else has to be told."""

from dataclasses import replace
from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.boot.plan import plan
from cvmlab.boot.request import Request
from cvmlab.images.kernel_image import identify
from cvmlab.images.kernel_tree import kernel_file
from cvmlab.machine.command_line import EXAMPLE_FDS, Channels, command_line
from cvmlab.machine.spec import BootSpec
from cvmlab.memory.states import profiles
from cvmlab.profiles.architecture import X86_64, Architectures
from cvmlab.profiles.guest_object import guest_object
from cvmlab.profiles.profile import (
    Attestation,
    DiskRefusal,
    GuestObject,
    Interface,
    Profile,
    Profiles,
    either,
)
from cvmlab.profiles.profile_rows import PROFILES
from cvmlab.vm.upgrade import require_upgradable
from tests.fakes import kernel_files


REALM = Profile(
    name="realm",
    restricted=True,
    architectures=("x86_64",),
    guest_object=GuestObject(type="realm-guest", defaults=("personalization=7",), check=None),
    cpu_model=None,
    interface=Interface(
        name="realms",
        proof="RSI call",
        silence="never spoke to a monitor",
        required=True,
        config="CONFIG_ARM_CCA",
        since=(6, 13),
        fate="on hardware it dies at once",
        dies_here=False,
        late="its firmware was nobody's",
    ),
    attestation=Attestation(
        service="realm-tokens",
        socket_property="token-socket",
        certificates_property=None,
        driver="realm-guest-driver",
        driver_helpers=(),
    ),
    host_policy=PROFILES["tdx"].host_policy,
    image=None,
    sharing_firmware="ovmf",
    disk_refusals=(DiskRefusal(firmware="seabios", reason="SeaBIOS does not know realms"),),
    upgrade_refusal="realms do not move",
    costs=None,
    thin_functions=("rsi_*",),
    fault_words=(),
)
KNOWN = Profiles([*PROFILES, REALM], {**profiles(), "realm": profiles()["tdx"]})
QEMU = Path("/opt/qemu")
CHANNELS = Channels.example(Path("/run/vm"))


def argv_of(spec: BootSpec) -> list[str]:
    spec.validate()
    return command_line(QEMU, spec, CHANNELS, EXAMPLE_FDS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with a kernel, a disk and a program that stands for QEMU."""
    kernel = kernel_files.elf({".note.pvh": kernel_files.pvh_note(0x1000)})
    (tmp_path / "kernel").write_bytes(kernel)
    (tmp_path / "disk.raw").write_bytes(bytes(512))
    program = tmp_path / "qemu"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("CVMLAB_QEMU", str(program))
    monkeypatch.setenv("CVMLAB_ROM_DIRS", str(tmp_path))
    return tmp_path


def test_coco_takes_the_name_of_a_new_row_and_the_command_has_its_object(folder: Path) -> None:
    request = Request.of(kernel=folder / "kernel", coco="realm", coco_options=("measured=on",))
    argv = plan(request, build=False, profiles=KNOWN).argv
    assert "realm-guest,id=cgs0,personalization=7,measured=on" in argv
    assert any("profile=realm,layout=split" in word for word in argv)


def test_a_mistyped_profile_is_told_the_new_name_too(folder: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        plan(Request.of(kernel=folder / "kernel", coco="realms"), build=False, profiles=KNOWN)
    assert refused.value.hint == (
        "did you mean realm? known are generic, sw-protected, tdx, sev, sev-es, sev-snp, cca, off, realm"
    )
    with pytest.raises(ConfigError, match="there is no profile 'realm'"):
        BootSpec(coco="realm").validate()


def test_firmware_for_a_disk_follows_from_the_row(folder: Path) -> None:
    request = Request.of(disks=(folder / "disk.raw",), coco="realm")
    argv = plan(request, build=False, profiles=KNOWN).argv
    assert argv[argv.index("-bios") + 1] == "OVMF.fd"
    with pytest.raises(
        ConfigError, match="SeaBIOS does not know realms, so a realm guest"
    ) as refused:
        plan(
            Request.of(disks=(folder / "disk.raw",), coco="realm", firmware="seabios"),
            build=False,
            profiles=KNOWN,
        )
    assert refused.value.hint == "--firmware ovmf"


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        (BootSpec(guest_options=("a=b",)), "cca or realm, or no --coco-option"),
        (BootSpec(mapgpa="refuse"), "--coco tdx or realm, or no --mapgpa"),
        (BootSpec(quotes=True), "--coco tdx, sev-snp, cca or realm, or no --quotes"),
    ],
)
def test_a_hint_lists_a_new_row_that_can_do_it(spec: BootSpec, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        replace(spec, profiles=KNOWN).validate()
    assert hint in str(refused.value.hint)


def test_a_new_row_says_itself_why_qemu_cannot_be_replaced() -> None:
    with pytest.raises(ConfigError, match="realm cannot move to another QEMU: realms do not move"):
        require_upgradable(BootSpec(coco="realm", profiles=KNOWN), ())


def test_the_socket_of_a_new_service_is_a_property_of_the_object() -> None:
    (_, text) = guest_object(REALM, (), Path("/run/tokens"))
    assert '"token-socket": {"type": "unix", "path": "/run/tokens"}' in text


def certificates(row: Profile, *options: str) -> list[str]:
    (_, text) = guest_object(row, options, None, Path("/run/table"))
    return [word for word in text.split(",") if word.startswith("certs")]


def test_certificates_are_a_property_where_there_is_one_and_none_is_given() -> None:
    attestation = REALM.attestation
    assert attestation is not None
    row = replace(REALM, attestation=replace(attestation, certificates_property="certs"))
    assert certificates(REALM) == []
    assert certificates(row) == ["certs=/run/table"]
    assert certificates(row, "certs=/mine") == ["certs=/mine"]


def test_a_value_that_looks_like_a_number_and_is_none_is_text() -> None:
    (_, text) = guest_object(REALM, ("id-block=0xyz",), Path("/run/tokens"))
    assert '"id-block": "0xyz"' in text


@pytest.mark.parametrize(
    ("word", "value"),
    [(word, "true") for word in ("on", "yes", "true", "y")]
    + [(word, "false") for word in ("off", "no", "false", "n")],
)
def test_json_has_the_truth_of_each_word_of_qemu(word: str, value: str) -> None:
    (_, text) = guest_object(REALM, (f"debug={word}",), Path("/run/tokens"))
    assert f'"debug": {value}' in text


def test_the_machine_is_that_of_the_architecture(tmp_path: Path) -> None:
    machine = replace(X86_64.machine, type="virt", options=(), without_ahci=(), cpu="neoverse")
    row = replace(X86_64, machine=machine, append="console=ttyAMA0", bios=())
    kernel = tmp_path / "Image"
    kernel.touch()
    firmware = tmp_path / "fw.bin"
    firmware.touch()
    argv = argv_of(BootSpec(architecture=row, kernel=kernel, append="quiet", firmware=firmware))
    assert argv[argv.index("-machine") + 1] == "virt,memory-backend=ram0,aux-ram-share=on"
    assert argv[argv.index("-cpu") + 1] == "neoverse"
    assert argv[argv.index("-append") + 1] == "console=ttyAMA0 quiet"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (BootSpec(memory_bytes=8 << 20), "--memory must be at least 16M"),
        (BootSpec(memory_bytes=4 << 30), "guest memory must be at most 2G"),
        (BootSpec(cpus=9), "--cpus must be 1 to 8"),
    ],
)
def test_limits_are_those_of_the_architecture(spec: BootSpec, message: str) -> None:
    machine = replace(X86_64.machine, max_memory_bytes=2 << 30, max_cpus=8)
    with pytest.raises(ConfigError, match=message):
        replace(spec, architecture=replace(X86_64, machine=machine)).validate()


def test_a_kernel_of_a_format_that_the_architecture_does_not_boot_is_refused(
    tmp_path: Path,
) -> None:
    row = replace(X86_64, kernel=replace(X86_64.kernel, kinds=("ELF",), in_build_tree="out/Image"))
    kernel = tmp_path / "bzImage"
    kernel.write_bytes(kernel_files.bzimage())
    with pytest.raises(ConfigError, match="format bzImage, which QEMU does not boot on x86_64"):
        identify(kernel).require_bootable(row)
    with pytest.raises(ConfigError, match="has no out/Image") as refused:
        kernel_file(tmp_path, row)
    assert refused.value.hint == "run make Image there, or give the path of a kernel"


def test_architectures_are_found_by_name_and_by_the_numbers_of_file_formats() -> None:
    arm = replace(
        X86_64,
        name="aarch64",
        kernel=replace(X86_64.kernel, elf_machines=("EM_AARCH64",), pe_machine=0xAA64),
    )
    known = Architectures((X86_64, arm))
    assert known.names == ("x86_64", "aarch64")
    assert known.choose("arch", "aarch64") is arm
    assert (known.of_elf("EM_AARCH64"), known.of_pe(0xAA64)) == (arm, arm)
    assert (known.of_elf("EM_RISCV"), known.of_pe(0x5064)) == (None, None)
    with pytest.raises(ConfigError, match="arch: there is no 'riscv'"):
        known.choose("arch", "riscv")


@pytest.mark.parametrize(
    ("names", "text"), [(("a",), "a"), (("a", "b"), "a or b"), (("a", "b", "c"), "a, b or c")]
)
def test_a_choice_is_written_as_people_say_it(names: tuple[str, ...], text: str) -> None:
    assert either(names) == text
