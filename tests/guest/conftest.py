# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the tests that boot Linux guests."""

import pytest


@pytest.fixture(autouse=True)
def accounts_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every VM end with the check that journal, table, counters and storage agree."""
    monkeypatch.setenv("CVMLAB_CHECK_ACCOUNTS", "1")
