# SPDX-License-Identifier: GPL-2.0-or-later
"""With CVMLAB_REQUIRE=1 a skipped test is a failure, unless the machine's owner decides it.

Programs and packages can be installed, so lacking one is no reason there.  What the kernel has and
what a container forbids is: these reasons are listed.
"""

import os
import re
from collections.abc import Generator

import pytest


ACCEPTED_REASONS = re.compile(
    r"/dev/kvm|KVM|guest_memfd"  # the kernel's own guest_memfd, to compare with
    r"|lets nobody|user namespace|userfaultfd"  # what a container forbids
    r"|2 MiB pages|huge pages"  # what the host has set aside
    r"|no Debian with the Python"  # wheels of one Python go into a chroot of the same
    r"|busybox"  # two packages have it, which exclude each other
    r"|there is no source of QEMU"  # what the Debian archive still has
)


def why_not(reason: str) -> str | None:
    """Return why a test may not be skipped for ``reason``; None if it may."""
    if os.environ.get("CVMLAB_REQUIRE") != "1" or ACCEPTED_REASONS.search(reason):
        return None
    return f"skipped although CVMLAB_REQUIRE=1: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the report of a skipped test into one of a failed test."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        complaint = why_not(str(report.longrepr[2]).removeprefix("Skipped: "))
        if complaint is not None:
            report.outcome, report.longrepr = "failed", complaint
    return report
