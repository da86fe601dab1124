# SPDX-License-Identifier: GPL-2.0-or-later
"""What follows from what the two QEMUs of an upgrade say."""

from itertools import product

import pytest

from cvmlab.vm.handover import (
    GONE,
    Look,
    Transfer,
    WayBack,
    during_transfer,
    may_return,
    on_the_way_back,
)


MIGRATION = (
    GONE, "none", "setup", "active", "device", "pre-switchover", "wait-unplug", "completed",
    "failed", "cancelling", "cancelled",
)  # fmt: skip
SOURCE = (GONE, "running", "finish-migrate", "postmigrate", "paused", "shutdown")
DESTINATION = (GONE, "inmigrate", "paused", "prelaunch")
LOOKS = [Look(*one) for one in product(MIGRATION, SOURCE, DESTINATION)]


@pytest.mark.parametrize(
    ("migration", "destination", "expected"),
    [
        ("setup", "inmigrate", Transfer.WAIT),
        ("active", "inmigrate", Transfer.WAIT),
        ("device", "inmigrate", Transfer.WAIT),
        # It has said so before the destination has read the last bytes.
        ("completed", "inmigrate", Transfer.WAIT),
        # The destination is done, the source has not noticed yet.
        ("active", "paused", Transfer.WAIT),
        ("completed", "paused", Transfer.LOADED),
        (GONE, "paused", Transfer.LOADED),
        # Only a destination that gives up, or the deadline, ends this.
        (GONE, "inmigrate", Transfer.WAIT),
        ("failed", "inmigrate", Transfer.BACK),
        ("failed", "paused", Transfer.BACK),
        ("cancelled", "paused", Transfer.BACK),
        ("completed", GONE, Transfer.BACK),
        ("active", GONE, Transfer.BACK),
        (GONE, GONE, Transfer.BACK),
    ],
)
def test_during_the_transfer(
    migration: str | None, destination: str | None, expected: Transfer
) -> None:
    assert during_transfer(Look(migration, "running", destination)) is expected


def test_a_destination_is_let_run_only_if_it_has_all_and_the_source_has_stopped() -> None:
    for look in (one for one in LOOKS if during_transfer(one) is Transfer.LOADED):
        assert look.destination not in (GONE, "inmigrate"), look
        assert look.migration in (GONE, "completed"), look


@pytest.mark.parametrize(
    ("migration", "source", "expected"),
    [
        ("none", "running", WayBack.DONE),
        ("failed", "running", WayBack.DONE),
        ("failed", "shutdown", WayBack.DONE),
        ("cancelled", "running", WayBack.DONE),
        ("completed", "postmigrate", WayBack.CONT),
        ("failed", "postmigrate", WayBack.CONT),
        ("completed", "finish-migrate", WayBack.WAIT),
        ("failed", "finish-migrate", WayBack.WAIT),
        ("cancelling", "finish-migrate", WayBack.WAIT),
        ("setup", "running", WayBack.CANCEL),
        ("active", "running", WayBack.CANCEL),
        ("device", "finish-migrate", WayBack.CANCEL),
        ("pre-switchover", "finish-migrate", WayBack.CANCEL),
        (GONE, GONE, WayBack.LOST),
        ("completed", GONE, WayBack.LOST),
    ],
)
def test_the_way_back(migration: str | None, source: str | None, expected: WayBack) -> None:
    assert on_the_way_back(Look(migration, source, GONE)) is expected


def test_the_way_back_ends_only_where_the_source_is_neither_stopped_nor_busy() -> None:
    for look in (one for one in LOOKS if on_the_way_back(one) is WayBack.DONE):
        assert look.migration in ("none", "completed", "failed", "cancelled"), look
        assert look.source not in (GONE, "finish-migrate", "postmigrate"), look


@pytest.mark.parametrize(("owner", "expected"), [(0, True), (7, True), (8, False)])
def test_the_source_returns_unless_somebody_has_taken_the_guest(owner: int, expected: bool) -> None:
    assert may_return(owner, source_pid=7) is expected
