# SPDX-License-Identifier: GPL-2.0-or-later
"""MRTD and SNP launch digests, beside other implementations; tests/guest asks guests for theirs."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from struct import pack

import pytest
from sevsnpmeasure.guest import snp_calc_launch_digest
from sevsnpmeasure.vcpu_types import CPU_SIGS

from cvmlab.base.errors import ConfigError
from cvmlab.machine.command_line import kernel_command_line
from cvmlab.machine.spec import BootSpec
from cvmlab.measurement.id_block_of import id_block_of
from cvmlab.measurement.kernel_hashes import LoadedKernel
from cvmlab.measurement.mrtd import mrtd
from cvmlab.measurement.ovmf_tables import FirmwareImage
from cvmlab.measurement.prediction import Predicted, predict
from cvmlab.measurement.snp_digest import ap_reset, launch_digest
from cvmlab.measurement.vmsa import RESET_VECTOR, vmsa
from cvmlab.profiles.profile_rows import PROFILES
from tests.fakes.ovmf_images import AP_RESET, SEV_SECTIONS, TDX_SECTIONS, ovmf


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "OVMF.fd").write_bytes(ovmf())
    (tmp_path / "kernel").write_bytes(b"kernel" * 1000)
    (tmp_path / "initrd").write_bytes(b"initrd" * 1000)
    return tmp_path


CPUS = {"milan": "EPYC-Milan-v2", "genoa": "EPYC-Genoa-v1", "turin": "EPYC-Turin"}


def spec(files: Path, **options: object) -> BootSpec:
    given = {"coco": "sev-snp", "firmware": files / "OVMF.fd", **options}
    return BootSpec(**given)  # type: ignore[arg-type]


def predicted(of: BootSpec) -> dict[str, Predicted]:
    return {one.name: one for one in predict(of)}


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("cpus", [1, 2, 5])
@pytest.mark.parametrize("append", [None, "", "quiet splash"])
@pytest.mark.parametrize("has_initrd", [True, False])
def test_sev_snp_measure_agrees(
    cpu: str, cpus: int, append: str | None, has_initrd: bool, files: Path
) -> None:
    """``append`` None: the firmware checks no kernel."""
    made = spec(
        files, cpu=cpu, cpus=cpus, kernel=files / "kernel", append=append or "",
        initrd=files / "initrd" if has_initrd else None,
        guest_options=() if append is None else ("kernel-hashes=on",),
    )  # fmt: skip
    kernel = "" if append is None else str(files / "kernel")
    initrd = str(files / "initrd") if has_initrd else ""
    theirs = snp_calc_launch_digest(
        cpus, CPU_SIGS[CPUS[cpu]], str(files / "OVMF.fd"), kernel, initrd,
        kernel_command_line(made), 1, "",
    )  # fmt: skip
    assert predicted(made)["measurement"].value == theirs


def test_firmware_that_does_not_know_sev_is_measured_here_alone(files: Path) -> None:
    (files / "other.fd").write_bytes(bytes(64 << 10))
    found = predicted(spec(files, firmware=files / "other.fd"))["measurement"]
    assert found.value is not None
    assert "hardware cannot launch it" in found.note


def test_without_a_signature_there_is_no_digest(files: Path) -> None:
    found = predicted(spec(files, cpu="max"))["measurement"]
    assert found.value is None
    assert "this CPU is not known" in found.note


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coco": "generic"}, "a guest of profile generic reports no measurement"),
        ({"firmware": Path("/no")}, "/no cannot be read: No such file"),
    ],
)
def test_what_cannot_be_measured_is_said(
    options: dict[str, object], message: str, files: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        predict(spec(files, **options))


@pytest.mark.parametrize("coco", PROFILES.names)
def test_each_profile_is_predicted_or_refused_with_those_that_are(coco: str, files: Path) -> None:
    try:
        assert predict(spec(files, coco=coco))
    except ConfigError as refused:
        hint = refused.hint or ""
        named = [name for name in PROFILES.names if name in hint.replace(",", "").split()]
        assert named
        assert coco not in named
        assert all(predict(spec(files, coco=name)) for name in named)


def test_a_token_is_known_after_the_launch_only(files: Path) -> None:
    with pytest.raises(ConfigError, match="guest of profile cca will report is known after its"):
        predict(spec(files, coco="cca"))


@pytest.mark.parametrize("word", ["on", "yes", "true", "y", "off", "no", "false", "n"])
def test_hashes_are_measured_where_qemu_takes_the_word_for_on(word: str, files: Path) -> None:
    options = {"kernel": files / "kernel"}
    plain, hashed, asked = (
        predicted(spec(files, **options, guest_options=given))["measurement"].value
        for given in ((), ("kernel-hashes=on",), ("kernel-hashes=on", f"kernel-hashes={word}"))
    )
    assert plain != hashed
    assert asked == (hashed if word in ("on", "yes", "true", "y") else plain)


@pytest.mark.parametrize("policy", ["-1", str(1 << 64), "many"])
def test_a_policy_that_is_none_gets_no_id_block(policy: str, files: Path) -> None:
    with pytest.raises(ConfigError, match=f"policy={policy} is no number of 64 bits"):
        id_block_of(spec(files, guest_options=(f"policy={policy}",)))


@pytest.mark.parametrize(
    ("given", "policy"), [((), 0x30000), (("policy=0xffffffffffffffff",), (1 << 64) - 1)]
)
def test_an_id_block_has_the_policy_of_the_guest(
    given: tuple[str, ...], policy: int, files: Path
) -> None:
    block = id_block_of(spec(files, guest_options=given))
    assert block.policy == policy
    assert len(block.packed()) == 96


def by_hand(image: bytes, sections: Sequence[tuple[int, ...]]) -> bytes:
    """Return MRTD, written down as the module's specification says it."""
    whole = b""
    for offset, _raw, gpa, size, _kind, attributes in sections:
        for page in range(gpa, gpa + size, 4096):
            whole += pack("<16sQ104s", b"MEM.PAGE.ADD", page, b"")
            if attributes & 1:
                for chunk in range(page, page + 4096, 256):
                    at = offset + chunk - gpa
                    whole += pack("<16sQ104s", b"MR.EXTEND", chunk, b"") + image[at : at + 256]
    return hashlib.sha384(whole).digest()


def test_mrtd_is_what_the_module_would_add_up() -> None:
    assert mrtd(FirmwareImage.of(ovmf())) == by_hand(ovmf(), TDX_SECTIONS)


def test_mrtd_is_of_measured_content_only() -> None:
    image = bytearray(ovmf())
    image[0x100] ^= 1  # a variable
    assert mrtd(FirmwareImage.of(bytes(image))) == mrtd(FirmwareImage.of(ovmf()))
    image[0x5000] ^= 1  # code
    assert mrtd(FirmwareImage.of(bytes(image))) != mrtd(FirmwareImage.of(ovmf()))


def test_firmware_that_is_no_tdvf_has_no_mrtd(files: Path) -> None:
    (files / "other.fd").write_bytes(bytes(64 << 10))
    assert mrtd(FirmwareImage.of(bytes(64 << 10))) == bytes(48)
    assert "no TDVF" in predicted(spec(files, coco="tdx", firmware=files / "other.fd"))["MRTD"].note


@pytest.mark.parametrize(("gpa", "size"), [(0x809000, 1 << 60), (1 << 63, 0x2000)])
def test_a_section_above_4_gib_is_refused_at_once(gpa: int, size: int) -> None:
    with pytest.raises(ConfigError, match=f"a section at 0x{gpa:x} that is above 4 GiB"):
        mrtd(FirmwareImage.of(ovmf(tdx=(*TDX_SECTIONS, (0, 0, gpa, size, 3, 0)))))


def test_a_measured_section_that_the_launch_fills_is_refused() -> None:
    sections = (*TDX_SECTIONS[:2], (0, 0, 0x809000, 0x2000, 2, 1))
    with pytest.raises(ConfigError, match="at 0x809000 measured that only the launch fills"):
        mrtd(FirmwareImage.of(ovmf(tdx=sections)))


def damaged(at: int, size: int) -> FirmwareImage:
    image = bytearray(ovmf())
    image[at : at + size] = b"\xff" * size
    return FirmwareImage.of(bytes(image))


@pytest.mark.parametrize("at", [-1024, -1024 + 12])
def test_metadata_that_is_odd_is_said(at: int) -> None:
    with pytest.raises(ConfigError, match="TDVF metadata is malformed"):
        mrtd(damaged(at, 4))


def test_a_table_that_is_odd_is_none() -> None:
    assert damaged(-34, 2).entries == {}
    assert damaged(-50, 2).entries == {}
    assert FirmwareImage.of(b"").entries == {}


def test_kernel_hashes_need_a_place_in_the_firmware() -> None:
    kernel = LoadedKernel(b"kernel", b"", "quiet")
    without = FirmwareImage.of(ovmf(sev=SEV_SECTIONS[:-1]))
    with pytest.raises(ConfigError, match="no table for kernel hashes"):
        launch_digest(without, kernel)
    elsewhere = FirmwareImage.of(ovmf(sev=(*SEV_SECTIONS[:-1], (0x900000, 0x1000, 0x10))))
    with pytest.raises(ConfigError, match="table for kernel hashes is malformed"):
        launch_digest(elsewhere, kernel)


def test_the_other_cpus_begin_where_the_firmware_says() -> None:
    firmware = FirmwareImage.of(ovmf())
    assert ap_reset(firmware) == AP_RESET
    assert vmsa(AP_RESET, 0) != vmsa(RESET_VECTOR, 0)
