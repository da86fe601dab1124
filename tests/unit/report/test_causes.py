# SPDX-License-Identifier: GPL-2.0-or-later
"""Who did it, in the reports of a run that is OK: callers, conversions by use, survived faults."""

from pathlib import Path

import pytest

from cvmlab.memory.records import FLAG_AS_PRIVATE, FLAG_IMPLICIT, Kind
from cvmlab.memory.states import PageState
from cvmlab.report import text
from cvmlab.report.html import render
from cvmlab.report.recording import load
from cvmlab.results import guest_faults, summary
from cvmlab.results.callers import Callers, NamedChain
from tests.fakes import journals as make


CHAINS = {
    1: NamedChain(
        (
            "tdcall+0x1",
            "dma_alloc+0x2",
            "a+0x1",
            "b+0x1",
            "c+0x1",
            "d+0x1",
            "probe+0x3 [virtio_blk]",
        ),
        5,
    )
}
CALLERS = Callers(CHAINS, ("tdcall",))
RECORDS = make.journal(
    make.row(Kind.CONVERT, 1, gpa=0x1000, pages=3, rip=5, stack=1, before=1, after=2),
    make.row(Kind.CONVERT, 2, gpa=0x8000, rip=6, flags=FLAG_IMPLICIT, before=0, after=2),
    make.row(Kind.GUEST_FAULT, 3, gpa=0x8000, flags=FLAG_AS_PRIVATE, rip=6, before=2, after=2),
)


def named(address: int) -> str | None:
    return {6: "copy+0x9"}.get(address)


@pytest.fixture(scope="module")
def shown() -> str:
    made = make.result(
        counters={"guest_faults": 1, "implicit_conversions": 1, "to_shared": 4},
        unnamed=["3 instructions have no name"],
    )
    told = {
        "conversions": summary.conversions(RECORDS, {}, named, CALLERS),
        "guest_faults": guest_faults.guest_faults(
            RECORDS, named, CALLERS, words={"shared-page-used-as-private": "RMP check"}
        ),
    }
    for name, value in told.items():
        made = type(made)(**{**{f: getattr(made, f) for f in made.__struct_fields__}, name: value})
    return text.render(made)


@pytest.mark.fault("V2")
def test_a_good_run_tells_conversions_by_use_and_faults_that_the_guest_survived(shown: str) -> None:
    assert "\nOK: " in shown
    assert "  1 to shared by vcpu by use, without a request, in copy" in shown
    assert "Guest faults 1\n" in shown
    assert (
        "  the guest used page 0x8000 (shared) by its private address, in copy+0x9 [RMP check]; "
        "made shared by vcpu 0 in copy+0x9 at 0.000 s (record 2)"
    ) in shown


@pytest.mark.fault("V3")
def test_callers_are_on_a_line_of_their_own_and_a_guess_is_called_one(shown: str) -> None:
    assert "  3 to shared by vcpu in 1 request, in dma_alloc\n" in shown
    assert (
        "      called by a, b, c, d, … probe [virtio_blk], … (from d on by a scan of the stack)"
    ) in shown


@pytest.mark.fault("F21")
def test_what_has_no_name_is_said_once(shown: str) -> None:
    assert shown.count("Unnamed     3 instructions have no name") == 1


@pytest.mark.fault("V2")
def test_the_html_report_has_them_too(tmp_path: Path) -> None:
    html = render(load(make.run_folder(tmp_path / "run", RECORDS)))
    assert '<table id="conversions">' in html
    assert "<td>by use<td>" in html
    assert '<table id="guest-faults">' in html
    assert "by its private address" in html
    assert PageState.SHARED.word in html
