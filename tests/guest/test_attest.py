# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock guests with a test root: what configfs-tsm gives them, in front of verifiers, and measured before."""

import json
from pathlib import Path
from typing import Any

import dcap_qvl
import pytest

from cvmlab.collateral.web_services import web_services
from cvmlab.debian import packages
from cvmlab.measurement.event_log import events, replay
from cvmlab.pki.authorities import Pki
from cvmlab.pki.pki_folder import save
from cvmlab.pki.platforms import SnpPlatform
from tests.fakes.pkis import small_pki
from tests.guest.evidence import DATA, SCRIPT, evidence
from tests.guest.program import cvmlab
from tests.verifiers import DcapQvl, OmneAttest, VoltageVerify


pytestmark = [
    pytest.mark.guest, pytest.mark.usefixtures("state_home"), pytest.mark.timeout(300),
]  # fmt: skip


@pytest.fixture(scope="module")
def pki() -> Pki:
    return small_pki()


@pytest.fixture(scope="module")
def root(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attest") / "pki"
    save(pki, folder)
    return folder


def measured(*words: str) -> dict[str, Any]:
    """Return what `cvmlab measure` says of a guest that is asked for its evidence."""
    done = cvmlab("measure", *words, "--exec", SCRIPT, "--json")
    assert done.code == 0, done.err
    values: dict[str, Any] = json.loads(done.out)["values"]
    return values


@pytest.mark.parametrize(
    "words",
    [
        ("debian-devices",),
        ("debian-backports", "--cpus", "2", "--append", "quiet", "-m", "2G"),
    ],
    ids=["6.12", "backports"],
)
def test_a_td_is_attested_and_was_measured_before(
    words: tuple[str, ...], pki: Pki, root: Path, tmp_path: Path
) -> None:
    guest = (*words, "--coco", "tdx", "--firmware", "ovmf", "--attest", str(root))
    got = evidence(tmp_path / "run", *guest)
    assert got.provider == "tdx_guest"
    dcap, voltage = DcapQvl(pki.tdx.root.der), VoltageVerify(pki.tdx.root.certificate)
    with web_services(pki) as address:
        assert dcap.status(got.blob, dcap.collateral(address, got.blob)) == "UpToDate"
        documents = voltage.collateral(address, "00906ed50000")
        assert voltage.status(got.blob, documents) == "UpToDate"
    td = dcap_qvl.parse_quote(got.blob).report
    assert td.report_data == DATA
    rtmrs = (td.rt_mr0, td.rt_mr1, td.rt_mr2, td.rt_mr3)
    assert replay(events(got.log)) == rtmrs
    predicted = measured(*guest)
    assert predicted.pop("RTMR0") is None
    assert predicted == {
        "MRTD": td.mr_td.hex(),
        **{f"RTMR{number}": rtmrs[number].hex() for number in (1, 2, 3)},
    }


def firmware_with_hashes() -> str:
    """Debian unstable has the firmware that has a place for them."""
    unpacked = packages.unpack(packages.fetch("ovmf-amdsev", "sid"))
    return str(unpacked / "usr/share/ovmf/OVMF.amdsev.fd")


SNP = [
    ("milan", ("debian", "--firmware", "seabios")),
    ("genoa", ("debian-backports", "--firmware", "ovmf", "--cpus", "2")),
    ("genoa", ("debian", "--firmware", "AMDSEV", "--coco-option", "kernel-hashes=on", "--append", "x=1")),
]  # fmt: skip


@pytest.mark.parametrize(("product", "words"), SNP, ids=["seabios", "ovmf", "hashes"])
def test_an_snp_guest_is_attested_and_was_measured_before(
    product: str, words: tuple[str, ...], pki: Pki, root: Path, tmp_path: Path
) -> None:
    words = tuple(firmware_with_hashes() if word == "AMDSEV" else word for word in words)
    guest = (
        *words, "--coco", "sev-snp", "--attest", str(root), "--attest-option", f"product={product}",
    )  # fmt: skip
    got = evidence(tmp_path / "run", *guest)
    assert got.provider == "sev_guest"
    platform = SnpPlatform(product=product)
    found = OmneAttest(pki.snp[product]).report(got.blob, pki.vcek(platform).der, report_data=DATA)
    assert found.version == platform.made.report_version
    assert measured(*guest)["measurement"] == found.measurement.hex()


def test_a_service_that_never_answers_ends_with_the_guest(root: Path, tmp_path: Path) -> None:
    """The guest waits for a quote; its timeout, and the end of the boot, do not."""
    done = cvmlab(
        "boot", "--coco", "tdx", "--attest", str(root), "--quote-fault", "never", "--json", "-",
        "--exec", f"({SCRIPT}) & sleep 5; echo other work is done",
        "--run-dir", str(tmp_path / "run"),
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "other work is done" in (tmp_path / "run" / "exec.log").read_text()
