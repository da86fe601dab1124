# SPDX-License-Identifier: GPL-2.0-or-later
from xml.etree import ElementTree as ET

from cvmlab.report import junit
from cvmlab.report.junit import Case
from cvmlab.results.result import Outcome, Result


def case(outcome: Outcome = Outcome.OK, message: str = "the guest booted") -> Case:
    booted = Result(
        cvmlab="0.1.0",
        outcome=outcome,
        exit_code=0,
        message=message,
        coco="generic",
        firmware="seabios",
        memory_bytes=1 << 30,
        cpus=1,
        started="2026-01-02T03:04:05Z",
        duration=1.25,
    )
    return Case.of("debian-trixie", booted, "the \x1b[1mreport\x1b[0m & <more>")


def test_a_good_boot_is_a_test_case_without_failure() -> None:
    root = ET.fromstring(junit.document([case()]))

    suite = root.find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("1", "0")
    found = suite.find("testcase")
    assert found is not None
    assert (found.get("classname"), found.get("name"), found.get("time")) == (
        "cvmlab.generic",
        "debian-trixie",
        "1.250",
    )
    assert found.find("failure") is None
    assert found.findtext("system-out") == "the �[1mreport�[0m & <more>"


def test_a_failure_has_the_sentence() -> None:
    root = ET.fromstring(junit.document([case(), case(Outcome.TIMEOUT, 'waited for "x" & <y>')]))

    (failure,) = root.iter("failure")
    assert (failure.get("type"), failure.get("message")) == ("timeout", 'waited for "x" & <y>')
    suite = root.find("testsuite")
    assert suite is not None
    assert suite.get("failures") == "1"
