# SPDX-License-Identifier: GPL-2.0-or-later
"""Skips are failures where everything should be there."""

import pytest

from tests.require import why_not


@pytest.mark.parametrize(
    ("required", "reason", "complains"),
    [
        ("", "bsdtar is not installed", False),
        ("0", "bsdtar is not installed", False),
        ("1", "bsdtar is not installed", True),
        ("1", "/dev/kvm cannot be opened: No such file or directory", False),
        ("1", "this host lets nobody make mounts of their own", False),
    ],
)
def test_a_skip_needs_an_accepted_reason(
    monkeypatch: pytest.MonkeyPatch, required: str, reason: str, complains: bool
) -> None:
    monkeypatch.setenv("CVMLAB_REQUIRE", required)
    assert (why_not(reason) is not None) is complains
