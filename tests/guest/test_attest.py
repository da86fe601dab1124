# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock guests with a test root: what configfs-tsm gives them, in front of verifiers, and measured before."""

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dcap_qvl
import pytest
from sevsnpmeasure.guest import snp_calc_launch_digest
from sevsnpmeasure.vcpu_types import CPU_SIGS

from cvmlab.attestation.certificate_table import certificate_table
from cvmlab.collateral.web_services import web_services
from cvmlab.debian import packages
from cvmlab.measurement.event_log import events, replay
from cvmlab.measurement.ovmf_tables import FirmwareImage
from cvmlab.measurement.rtmr0 import ACPI, known_events, rtmr0
from cvmlab.memory.ranges import parse_size
from cvmlab.pki.authorities import Pki
from cvmlab.pki.pki_folder import save
from cvmlab.pki.platforms import SnpPlatform
from cvmlab.qemu.build import rom_dirs
from tests.changed_evidence import QUOTE_PLACES, REPORT_PLACES
from tests.fakes.pkis import small_pki
from tests.guest.evidence import DATA, SCRIPT, Evidence, evidence
from tests.guest.program import cvmlab
from tests.verifier_table import refused
from tests.verifiers import UNREAD_BY_DCAP_QVL, DcapQvl, OmneAttest, VoltageVerify


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


def accepted(changed: list[bool], places: Mapping[str, int]) -> set[str]:
    """Return where a bit may be changed and the verifier does not refuse it."""
    return {place for place, is_refused in zip(places, changed, strict=True) if not is_refused}


def measured(*words: str) -> dict[str, Any]:
    """Return what `cvmlab measure` says of a guest that is asked for its evidence."""
    done = cvmlab("measure", *words, "--exec", SCRIPT, "--json")
    assert done.code == 0, done.err
    values: dict[str, Any] = json.loads(done.out)["values"]
    return values


def require_verified(quote: bytes, pki: Pki) -> None:
    """Fail unless verifiers accept the quote, and refuse it with a bit changed where they look."""
    dcap, voltage = DcapQvl(pki.tdx.root.der), VoltageVerify(pki.tdx.root.certificate)
    with web_services(pki) as address:
        collateral = dcap.collateral(address, quote)
        documents = voltage.collateral(address, "00906ed50000")
    assert dcap.status(quote, collateral) == voltage.status(quote, documents) == "UpToDate"
    changed = refused(lambda made: dcap.status(made, collateral), quote, QUOTE_PLACES)
    assert accepted(changed, QUOTE_PLACES) == UNREAD_BY_DCAP_QVL
    changed = refused(lambda made: voltage.status(made, documents), quote, QUOTE_PLACES)
    assert accepted(changed, QUOTE_PLACES) == set()


TDS = {
    "6.12": ("debian-devices",),
    "6.12, four CPUs": ("debian", "--cpus", "4", "--memory", "3G", "--append", "x=1 y=2"),
    "7.3": ("debian-backports", "--cpus", "2", "--append", "quiet", "-m", "2G"),
    "7.3, small": ("debian-backports", "--memory", "768M"),
}


@pytest.mark.parametrize("words", TDS.values(), ids=TDS)
def test_a_td_is_attested_and_was_measured_before(
    words: tuple[str, ...], pki: Pki, root: Path, tmp_path: Path
) -> None:
    guest = (*words, "--coco", "tdx", "--firmware", "ovmf", "--attest", str(root))
    got = evidence(tmp_path / "run", *guest)
    assert got.provider == "tdx_guest"
    require_verified(got.blob, pki)
    td = dcap_qvl.parse_quote(got.blob).report
    assert td.report_data == DATA
    rtmrs = (td.rt_mr0, td.rt_mr1, td.rt_mr2, td.rt_mr3)
    assert replay(events(got.log)) == rtmrs
    known = known_events(
        FirmwareImage.of(rom_of(got).read_bytes()),
        parse_size(got.argument("-m")),
        only_a_kernel=True,
    )
    logged = [event.digest for event in events(got.log) if event.rtmr == 0]
    for event, digest in zip(known, logged, strict=True):
        assert event.digest in (None, digest), event.name
    acpi = [digest for event, digest in zip(known, logged, strict=True) if event.name == ACPI]
    assert [event.name for event in known if event.digest is None] == [ACPI] * 3
    assert rtmr0(known, acpi) == rtmrs[0]
    predicted = measured(*guest)
    assert predicted.pop("RTMR0") is None
    assert predicted == {
        "MRTD": td.mr_td.hex(),
        **{f"RTMR{number}": rtmrs[number].hex() for number in (1, 2, 3)},
    }


def test_a_td_gets_a_quote_of_version_5(pki: Pki, root: Path, tmp_path: Path) -> None:
    words = ("debian-devices", "--coco", "tdx", "--attest", str(root))
    quote = evidence(tmp_path / "run", *words, "--attest-option", "quote-version=5").blob
    dcap = DcapQvl(pki.tdx.root.der)
    with web_services(pki) as address:
        assert dcap.status(quote, dcap.collateral(address, quote)) == "UpToDate"
    assert isinstance(dcap_qvl.parse_quote(quote).report, dcap_qvl.TdReport15)


def firmware_with_hashes() -> str:
    """Debian unstable has the firmware that has a place for them."""
    unpacked = packages.unpack(packages.fetch("ovmf-amdsev", "sid"))
    return str(unpacked / "usr/share/ovmf/OVMF.amdsev.fd")


HASHES = ("--firmware", "AMDSEV", "--coco-option", "kernel-hashes=on")
SNP = {
    "6.12, seabios": ("milan", ("debian", "--firmware", "seabios")),
    "6.12, hashes": ("genoa", ("debian", *HASHES, "--append", "x=1")),
    "6.12, milan": ("milan", ("debian", *HASHES, "--cpu", "milan", "--cpus", "3")),
    "7.3, ovmf": ("genoa", ("debian-backports", "--firmware", "ovmf", "--cpus", "2")),
    "7.3, hashes": ("genoa", ("debian-backports", *HASHES, "--cpus", "2", "--memory", "2G")),
    "7.3, turin": ("turin", ("debian-backports", "--firmware", "ovmf", "--cpu", "turin")),
}
TYPES = {"milan": "EPYC-Milan", "genoa": "EPYC-Genoa", "turin": "EPYC-Turin"}


def snp_guest(product: str, words: tuple[str, ...], root: Path) -> tuple[str, ...]:
    words = tuple(firmware_with_hashes() if word == "AMDSEV" else word for word in words)
    return (
        *words, "--coco", "sev-snp", "--attest", str(root), "--attest-option", f"product={product}",
    )  # fmt: skip


def rom_of(got: Evidence) -> Path:
    bios = got.argument("-bios")
    return next(at / bios for at in (Path(), *rom_dirs()) if (at / bios).is_file())


def computed(got: Evidence, words: tuple[str, ...]) -> bytes:
    """Return what sev-snp-measure computes for the QEMU that ran."""
    model = words[words.index("--cpu") + 1] if "--cpu" in words else "genoa"
    hashed = "kernel-hashes=on" in words
    kernel, initrd = (got.argument(name) if hashed else "" for name in ("-kernel", "-initrd"))
    digest: bytes = snp_calc_launch_digest(
        int(got.argument("-smp").partition(",")[0]), CPU_SIGS[TYPES[model]], str(rom_of(got)), kernel,
        initrd, got.argument("-append"), 1, "",
    )  # fmt: skip
    return digest


@pytest.mark.parametrize(("product", "words"), SNP.values(), ids=SNP)
def test_an_snp_guest_is_attested_and_was_measured_before(
    product: str, words: tuple[str, ...], pki: Pki, root: Path, tmp_path: Path
) -> None:
    guest = snp_guest(product, words, root)
    got = evidence(tmp_path / "run", *guest)
    assert got.provider == "sev_guest"
    platform, chain = SnpPlatform(product=product), pki.snp[product]
    assert got.certificates.startswith(certificate_table(pki, platform))
    report, vcek = got.blob, pki.vcek(platform).der
    measurement = report[0x90:0xC0]
    if product != "turin":  # omne-attest does not know it
        omne = OmneAttest(chain)
        found = omne.report(report, vcek, report_data=DATA)
        assert found.version == platform.made.report_version
        assert found.measurement == measurement
        changed = refused(lambda made: omne.report(made, vcek), report, REPORT_PLACES)
        assert accepted(changed, REPORT_PLACES) == set()
    assert measured(*guest)["measurement"] == measurement.hex()
    if "seabios" not in words:
        assert computed(got, words) == measurement


def test_an_id_block_launches_its_guest_and_no_other(root: Path, tmp_path: Path) -> None:
    guest = snp_guest("genoa", ("debian-backports", *HASHES, "--cpus", "2"), root)
    made = cvmlab("attest", "id-block", str(root), *guest, "--exec", SCRIPT, "--author", "--json")
    assert made.code == 0, made.err
    options = [word for text in made.json["coco_options"] for word in ("--coco-option", text)]
    report = evidence(tmp_path / "run", *guest, *options).blob
    assert report[0xE0:0x110].hex() == made.json["id_key"]
    assert report[0x110:0x140].hex() == made.json["author_key"]
    assert report[0x48] & 1
    for other in (("--append", "x"), ("--cpus", "3")):
        refused = cvmlab("boot", *guest, *options, "--exec", SCRIPT, *other)
        assert refused.code == 84
        assert "id-block: its launch digest is not that of this guest" in refused.err


def test_a_service_that_never_answers_ends_with_the_guest(root: Path, tmp_path: Path) -> None:
    """The guest waits for a quote; its timeout, and the end of the boot, do not."""
    done = cvmlab(
        "boot", "--coco", "tdx", "--attest", str(root), "--quote-fault", "never", "--json", "-",
        "--exec", f"({SCRIPT}) & sleep 5; echo other work is done",
        "--run-dir", str(tmp_path / "run"),
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "other work is done" in (tmp_path / "run" / "exec.log").read_text()


def test_a_guest_fetches_from_the_services_of_its_own_vm(pki: Pki, root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = (
            "debian-devices", "--coco", "sev-snp", "--net", "user", "--attest", str(root), "--attest-serve",
            str(port), "--run-dir", str(root.parent / "run"), "--exec",
            "ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0 && "
            f"wget -q -O - http://10.0.2.2:{port}/vcek/v1/Genoa/cert_chain",
        )  # fmt: skip
        refused = cvmlab("boot", *words)
        assert refused.code == 85
        assert f"port {port} cannot be served: Address already in use" in refused.err
    done = cvmlab("boot", *words)
    assert done.code == 0, done.err
    chain = pki.snp["genoa"]
    assert (root.parent / "run" / "exec.log").read_text() == chain.ask.pem + chain.ark.pem
    socket.create_server(("127.0.0.1", port)).close()  # the services have ended with the VM
