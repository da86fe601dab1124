# SPDX-License-Identifier: GPL-2.0-or-later
"""JUnit XML, which CI systems show: one test case a boot."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from cvmlab.result import Outcome, Result


# XML 1.0 has no way to write these, and consoles are full of them.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Case:
    """One boot: *name* says what was booted, *report* is what a person would read."""

    name: str
    result: Result
    report: str


def document(cases: Sequence[Case]) -> str:
    """Return a test suite of *cases*."""
    failures = sum(case.result.outcome is not Outcome.OK for case in cases)
    suite = ET.Element(
        "testsuite",
        name="cvmlab",
        tests=str(len(cases)),
        failures=str(failures),
        errors="0",
        skipped="0",
        time=f"{sum(case.result.duration for case in cases):.3f}",
    )
    for case in cases:
        _add(suite, case)
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _add(suite: ET.Element, case: Case) -> None:
    result = case.result
    element = ET.SubElement(
        suite,
        "testcase",
        classname=f"cvmlab.{result.coco}",
        name=_clean(case.name),
        time=f"{result.duration:.3f}",
    )
    if result.outcome is not Outcome.OK:
        failure = ET.SubElement(
            element, "failure", type=result.outcome.value, message=_clean(result.message)
        )
        failure.text = _clean(result.hint or result.message)
    ET.SubElement(element, "system-out").text = _clean(case.report)


def _clean(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
