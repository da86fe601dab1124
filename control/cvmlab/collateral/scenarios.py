# SPDX-License-Identifier: GPL-2.0-or-later
"""What the services do that people cannot have vendors' services do on demand.  Pure."""

from datetime import datetime
from enum import StrEnum
from typing import Final

from cvmlab.collateral.tcb_documents import LIFETIME, Issue, TcbStatus


class Scenario(StrEnum):
    """One way in which the services answer."""

    GOOD = "good"
    OUT_OF_DATE = "out-of-date"
    SW_HARDENING = "sw-hardening"
    CONFIGURATION = "configuration"
    TCB_REVOKED = "tcb-revoked"
    REVOKED = "revoked"
    EXPIRED = "expired"
    SLOW = "slow"
    TOO_MANY_REQUESTS = "429"
    SERVER_ERROR = "500"


MEANINGS: Final = {
    Scenario.GOOD: "everything is up to date",
    Scenario.OUT_OF_DATE: "the newest level of a TDX platform has status OutOfDate",
    Scenario.SW_HARDENING: "it has status SWHardeningNeeded",
    Scenario.CONFIGURATION: "it has status ConfigurationNeeded",
    Scenario.TCB_REVOKED: "it has status Revoked",
    Scenario.REVOKED: "the PCK CAs, ASKs and ASVKs are on the lists of revoked certificates",
    Scenario.EXPIRED: "documents and lists are past their next update",
    Scenario.SLOW: "each answer takes as long as --delay says",
    Scenario.TOO_MANY_REQUESTS: "each answer is status 429, Too Many Requests",
    Scenario.SERVER_ERROR: "each answer is status 500, Internal Server Error",
}
STATUSES: Final = {Scenario.TOO_MANY_REQUESTS: 429, Scenario.SERVER_ERROR: 500}
_TCB: Final = {
    Scenario.OUT_OF_DATE: TcbStatus.OUT_OF_DATE,
    Scenario.SW_HARDENING: TcbStatus.SW_HARDENING,
    Scenario.CONFIGURATION: TcbStatus.CONFIGURATION,
    Scenario.TCB_REVOKED: TcbStatus.REVOKED,
}


def issue_of(scenario: Scenario, now: datetime) -> Issue:
    """Return when documents of *scenario* are made, and what they say."""
    return Issue(
        made=now - 2 * LIFETIME if scenario is Scenario.EXPIRED else now,
        status=_TCB.get(scenario, TcbStatus.UP_TO_DATE),
        revokes_authorities=scenario is Scenario.REVOKED,
    )
