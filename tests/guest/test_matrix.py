# SPDX-License-Identifier: GPL-2.0-or-later
"""A real matrix: guests that break a rule each fail with a message that helps, their controls pass."""

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from cvmlab.results.result import Outcome
from tests.guest.program import cvmlab
from tests.qemu import bare


pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("state_home")]

HERE = Path(__file__).parent
BROKEN = {
    "early/tdx": (
        82, "use-before-acceptance",
        r"the guest touched page 0x2000000 \(pending\) before it had accepted it, in probe_read64\+0x\w+"
        r" \[EPT violation: the page is PENDING.*\]; made pending by vcpu 0 in probe_tdcall_at.*",
    ),
    "dma/sw-protected": (
        81, "host-fault",
        r"\d+ host faults?, 0 are allowed: first device fw_cfg read 0x2101000 \(private\), "
        r"guest in do_fwcfg_dma\+0x\w+",
    ),
    "greedy/sw-protected": (
        80, "budget-exceeded",
        r"64 converted pages in phase kernel, 32 are allowed: 64 in probe_vmcall",
    ),
}  # fmt: skip
GOOD = {
    "early-control/tdx", "dma-control/sw-protected", "greedy-control/sw-protected",
    "stock/generic", "stock/sw-protected", "stock/tdx",
}  # fmt: skip


def test_a_regression_names_phase_count_and_function(tmp_path: Path) -> None:
    elf, base = bare.build(tmp_path), tmp_path / "base.json"
    boot = (
        "boot", "-k", str(elf), "-m", "64M", "--coco", "sw-protected",
        "--append", "-- vmcall c 2000000 40 0 0; --", "--json",
    )  # fmt: skip
    before = tmp_path / "before.json"
    assert cvmlab(*boot, str(before)).code == 0
    assert cvmlab("baseline", "update", str(base), str(before), "--pages", "8").code == 0
    assert cvmlab(*boot, "-", "--baseline", str(base)).code == 0
    base.write_text(re.sub(r"\b64\b", "32", base.read_text()))  # as if it had been half as many

    done = cvmlab(*boot, "-", "--baseline", str(base))

    assert (done.code, done.result.outcome) == (80, Outcome.BUDGET_EXCEEDED)
    assert done.result.message == (
        "64 pages converted to shared in phase kernel: the baseline is 32, 40 are allowed; "
        "32 more in probe_vmcall"
    )


def test_broken_guests_fail_usefully_and_their_controls_pass(tmp_path: Path) -> None:
    shutil.copy(HERE / "broken.toml", tmp_path / "m.toml")
    bare.build(tmp_path).rename(tmp_path / "bare.elf")
    junit = tmp_path / "junit.xml"

    done = cvmlab(
        "matrix", str(tmp_path / "m.toml"), "--run-dir", str(tmp_path / "k"), "--junit", str(junit),
        "--json", str(tmp_path / "m.json"), "--progress", "none",
    )  # fmt: skip

    assert done.code == 1, done.out + done.err
    assert "21 cells, 6 passed, 3 failed, 0 unstable, 12 ignored, 0 missing" in done.out
    cases = {
        "/".join((case.get("name") or "").split("/")[:2]): case
        for case in ET.parse(junit).getroot().iter("testcase")
    }
    for name, (code, outcome, message) in BROKEN.items():
        failure = cases[name].find("failure")
        assert failure is not None
        assert failure.get("type") == outcome
        assert re.fullmatch(message, failure.get("message") or ""), failure.get("message")
        assert f"(exit code {code})" in (cases[name].findtext("system-out") or "")
    assert {
        name for name, case in cases.items() if not [*case.iter("failure"), *case.iter("skipped")]
    } >= GOOD
