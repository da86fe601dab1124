# SPDX-License-Identifier: GPL-2.0-or-later
"""JUnit XML, which CI systems show: one test case a boot."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self
from xml.etree import ElementTree as ET

from cvmlab.results.result import Outcome, Result


PROPERTY = "cvmlab."  # before the name of a measure
# XML 1.0 has no way to write these, and consoles are full of them.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What went wrong: a word, a sentence, and a hint or else the sentence again."""

    kind: str
    message: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One boot: *name* says what was booted, *report* is what a person would read.

    ``skipped`` is the reason to skip it; ``counts`` become properties, by measure.
    """

    name: str
    group: str
    seconds: float
    report: str
    failure: Failure | None = None
    skipped: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, result: Result, report: str) -> Self:
        """Return the case of a boot that should have ended well."""
        bad = result.outcome is not Outcome.OK
        return cls(
            name=name,
            group=f"cvmlab.{result.coco}",
            seconds=result.duration,
            report=report,
            failure=Failure(
                kind=result.outcome.value,
                message=result.message,
                text=result.hint or result.message,
            )
            if bad
            else None,
            counts=result.counters.as_dict(),
        )


def document(cases: Sequence[Case], *, name: str = "cvmlab") -> str:
    """Return a test suite of *cases*."""
    suite = ET.Element(
        "testsuite",
        name=_clean(name),
        tests=str(len(cases)),
        failures=str(sum(case.failure is not None for case in cases)),
        errors="0",
        skipped=str(sum(case.skipped is not None for case in cases)),
        time=f"{sum(case.seconds for case in cases):.3f}",
    )
    for case in cases:
        _add(suite, case)
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _add(suite: ET.Element, case: Case) -> None:
    element = ET.SubElement(
        suite,
        "testcase",
        classname=_clean(case.group),
        name=_clean(case.name),
        time=f"{case.seconds:.3f}",
    )
    if case.counts:
        properties = ET.SubElement(element, "properties")
        for name, count in case.counts.items():
            ET.SubElement(properties, "property", name=f"{PROPERTY}{name}", value=str(count))
    if case.skipped is not None:
        ET.SubElement(element, "skipped", message=_clean(case.skipped))
    if case.failure is not None:
        failure = ET.SubElement(
            element,
            "failure",
            type=_clean(case.failure.kind),
            message=_clean(case.failure.message),
        )
        failure.text = _clean(case.failure.text)
    ET.SubElement(element, "system-out").text = _clean(case.report)


def _clean(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
