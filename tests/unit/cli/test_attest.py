# SPDX-License-Identifier: GPL-2.0-or-later
"""``cvmlab attest``, and ``boot --attest`` before anything is started."""

import hashlib
import json
from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.cli import main
from cvmlab.machine.spec import BootSpec
from cvmlab.measurement.mrtd import mrtd
from cvmlab.measurement.ovmf_tables import FirmwareImage
from cvmlab.pki.pki_folder import save
from tests.fakes import kernel_files
from tests.fakes.ovmf_images import event_log, ovmf
from tests.fakes.pkis import small_pki


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(small_pki(), tmp_path / "pki")
    return tmp_path / "pki"


def test_show_tells_where_the_roots_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attest", "show", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "test PKI of seed demo (emulated" in shown
    assert f"  der     {folder}/tdx/root.der" in shown
    assert hashlib.sha256(small_pki().snp["milan"].ark.der).hexdigest() in shown
    assert shown.count("(cvmlab test, emulated)") == 5


def test_show_as_json_has_the_certificates(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["attest", "show", str(folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["emulated"], shown["seed"]) == (True, "demo")
    assert shown["roots"][0]["certificate"] == small_pki().tdx.root.pem


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["show", "nothing"], "nothing has no test PKI", "`cvmlab attest init nothing` makes one"),
        (["init", "pki"], "pki exists and is not an empty folder", "give a new folder"),
        (["serve", "nothing"], "nothing has no test PKI", "`cvmlab attest init nothing` makes one"),
        (["serve", "pki", "--scenario", "revokd"], "--scenario: there is no 'revokd'", "revoked"),
    ],
)
def test_bad_input_is_said(
    words: list[str],
    message: str,
    hint: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder.parent)
    assert main(["attest", *words]) == 85
    told = capsys.readouterr().err
    assert f"cvmlab: {message}\n" in told
    assert hint in told


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (BootSpec(coco="generic", attest=Path("/")), "profile generic has no attestation"),
        (BootSpec(coco="tdx", attest=Path("/no")), "there is no folder /no"),
        (BootSpec(coco="tdx", attest_options=("pce-svn=1",)), "nothing signs one"),
        (BootSpec(coco="tdx", quotes=True, attest_serve=8081), "--attest-serve serves what"),
        (BootSpec(coco="tdx", attest=Path("/"), attest_serve=0), "must be 1 to 65535 (got 0)"),
        (BootSpec(coco="tdx", attest=Path("/"), attest_serve=65536), "(got 65536)"),
        (
            BootSpec(coco="tdx", attest=Path("/"), attest_options=("product=milan",)),
            "--attest-option product=milan: there is no 'product'",
        ),
        (
            BootSpec(coco="sev-snp", attest=Path("/"), attest_options=("product=rome",)),
            "rome is none of milan, genoa, turin",
        ),
    ],
)
def test_a_boot_that_cannot_sign_is_refused(spec: BootSpec, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec.validate()
    assert message in caught.value.message
    assert caught.value.hint


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words for a guest of files, with firmware that has the tables of OVMF."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "OVMF.fd").write_bytes(ovmf())
    (tmp_path / "kernel").write_bytes(
        kernel_files.elf({".note.pvh": kernel_files.pvh_note(0x1000)})
    )
    return ["--kernel=kernel", "--firmware=./OVMF.fd"]


def measured(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, str | None]:
    assert main(["measure", *words, "--json"]) == 0
    values: dict[str, str | None] = json.loads(capsys.readouterr().out)["values"]
    return values


def test_measure_prints_what_a_guest_will_report(
    guest: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    image = FirmwareImage.of(ovmf())
    assert measured([*guest, "--coco=tdx"], capsys) == {
        "MRTD": mrtd(image).hex(), "RTMR0": None, "RTMR1": None, "RTMR2": None,
        "RTMR3": bytes(48).hex(),
    }  # fmt: skip
    values = measured([*guest, "--coco=sev-snp"], capsys)
    assert set(values) == {"measurement"}
    assert main(["measure", *guest, "--coco=tdx"]) == 0
    assert f"MRTD         {mrtd(image).hex()}\n" in capsys.readouterr().out


def test_measure_replays_a_log(
    guest: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").write_bytes(event_log())
    values = measured([*guest, "--coco=tdx", "--event-log=log"], capsys)
    assert values == {
        "MRTD": mrtd(FirmwareImage.of(ovmf())).hex(),
        **{f"RTMR{number}": bytes(48).hex() for number in range(4)},
    }
    assert main(["measure", *guest, "--coco=tdx", "--event-log=log"]) == 0
    shown = capsys.readouterr().out
    assert "0 events; not the events of such a machine\n" in shown
    assert "0 events: " not in shown
    assert main(["measure", *guest, "--coco=sev-snp", "--event-log=log"]) == 0
    assert "such a machine" not in capsys.readouterr().out
    assert main(["measure", *guest, "--coco=tdx", "--event-log=no"]) == 85
    assert "no cannot be read: No such file" in capsys.readouterr().err


def test_a_realm_is_measured_by_its_launch_only(
    guest: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--coco=cca", "--arch=aarch64", "--firmware=./OVMF.fd"]
    for command in (["measure", *words], ["attest", "id-block", str(folder), *words]):
        assert main(command) == 85
        assert "is known after its launch only" in capsys.readouterr().err
