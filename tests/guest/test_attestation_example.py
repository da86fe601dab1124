# SPDX-License-Identifier: GPL-2.0-or-later
"""The key broker of examples/attestation: the right guest gets the key, another one does not."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cvmlab.collateral.web_services import web_services
from cvmlab.pki.pki_folder import save
from tests.fakes.pkis import small_pki
from tests.guest.program import cvmlab
from tests.guest.test_attest import firmware_with_hashes


pytestmark = [
    pytest.mark.guest, pytest.mark.usefixtures("state_home"), pytest.mark.timeout(400),
]  # fmt: skip
EXAMPLE = Path(__file__).parents[2] / "examples" / "attestation"
GUESTS: dict[str, tuple[str, ...]] = {
    "tdx": ("debian-devices", "--coco", "tdx", "--firmware", "ovmf"),
    "sev-snp": ("debian-devices", "--coco", "sev-snp", "--coco-option", "kernel-hashes=on"),
}
ROOTS = {"tdx": "tdx/root.der", "sev-snp": "snp/genoa/ark.der"}


@contextmanager
def broker(root: Path, expected: Path, log: Path) -> Iterator[int]:
    """Run the broker while the block runs, and yield its port; it writes to *log*."""
    with web_services(small_pki()) as collateral, log.open("w") as out:
        words = ["--root", str(root), "--collateral", collateral, "--expect", str(expected)]
        with subprocess.Popen(
            [sys.executable, str(EXAMPLE / "broker.py"), *words],
            stdout=subprocess.PIPE, stderr=out, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            yield int(process.stdout.readline())
            process.terminate()
            log.write_text(process.stdout.read())


@pytest.mark.parametrize("coco", GUESTS)
def test_only_the_expected_guest_gets_the_key(coco: str, tmp_path: Path) -> None:
    save(small_pki(), tmp_path / "pki")
    guest = (
        *GUESTS[coco], "--net", "user", "--share", str(EXAMPLE), "--attest", str(tmp_path / "pki"),
    )  # fmt: skip
    if coco == "sev-snp":
        guest = (*guest, "--firmware", firmware_with_hashes())
    # The broker's port is in the initrd, by --exec, which is measured: it is told when it is known.
    expected, log = tmp_path / "expect.json", tmp_path / "broker.log"
    expected.write_text('{"values": {}}')
    with broker(tmp_path / "pki" / ROOTS[coco], expected, log) as port:
        ask = ("--exec", f"/share/get-key 10.0.2.2:{port}")
        measured = cvmlab("measure", *guest, *ask, "--json")
        assert measured.code == 0, measured.err
        expected.write_text(measured.out)
        boot = ("boot", *guest, *ask, "--run-dir")
        right = cvmlab(*boot, str(tmp_path / "right"))
        wrong = cvmlab(*boot, str(tmp_path / "wrong"), "--append", "x")
    told = log.read_text()
    assert right.code == 0, right.out + told
    assert wrong.code not in (0, 85), wrong.out
    assert "key given" in told
    assert "refused: it is another guest" in told
