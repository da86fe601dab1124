# SPDX-License-Identifier: GPL-2.0-or-later
"""The decisions of an upgrade, by the states that both QEMUs report.

The *source* has the guest, the *destination* is to get it.  Until the destination's CPUs run, the
source can resume the guest; only these tables decide which of the two has it.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum, auto


# MigrationStatus of QEMU, in three groups.
_FAILED = ("failed", "cancelled")
_OVER = ("none", "completed", *_FAILED)
_LOADING = "inmigrate"
GONE = None


class Stage(StrEnum):
    """The stages of an upgrade; the value completes "waited ... for"."""

    SETTLE = "commands in flight and typed text to be taken"
    START = "the new QEMU to start"
    TRANSFER = "CPUs and devices to be transferred"
    VERIFY = "the new QEMU to describe its memory"
    COMMIT = "the new QEMU to run the guest"
    RETIRE = "the old QEMU to exit"


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The result of an upgrade.  Versions are such as ``10.0.13``, times in seconds.

    ``problem`` is what went wrong after the guest was in the new QEMU, None if nothing did.
    ``downtime_s`` is from the stop of the guest's CPUs in the old QEMU to their start in the new one,
    ``bytes_sent`` the size of the transfer: CPUs and devices, never guest memory.
    """

    old_version: str
    new_version: str
    old_pid: int
    new_pid: int
    downtime_s: float
    total_s: float
    bytes_sent: int
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """The states that both report at one moment; None for a process that has ended.

    ``migration`` is the source's MigrationStatus, ``source`` and ``destination`` are run states.
    """

    migration: str | None
    source: str | None
    destination: str | None


class Transfer(Enum):
    """What to do while the transfer is under way."""

    WAIT = auto()
    LOADED = auto()  # the destination has loaded everything, the source has stopped
    BACK = auto()


def during_transfer(look: Look) -> Transfer:
    """Return what to do next.  The caller's deadline ends the wait."""
    if look.destination is GONE or look.migration in _FAILED:
        return Transfer.BACK
    loaded = look.destination != _LOADING
    # A source that died after the complete transfer is no failure.
    if loaded and look.migration in (GONE, "completed"):
        return Transfer.LOADED
    return Transfer.WAIT


class WayBack(Enum):
    """What to do with a source whose destination has ended."""

    DONE = auto()  # it runs the guest, as before
    WAIT = auto()  # it recovers by itself
    CANCEL = auto()
    CONT = auto()
    LOST = auto()


def on_the_way_back(look: Look) -> WayBack:
    """Return what to do next, after the destination was killed."""
    match look.migration, look.source:
        case (None, _) | (_, None):  # it may die between the two queries
            return WayBack.LOST
        case "cancelling", _:
            return WayBack.WAIT
        case migration, _ if migration not in _OVER:
            return WayBack.CANCEL
        case _, "postmigrate":
            return WayBack.CONT
        case _, "finish-migrate":
            return WayBack.WAIT
        case _:
            return WayBack.DONE


def may_return(owner: int, source_pid: int) -> bool:
    """Return whether the source may still run the guest, by the owner word of the memory files.

    The source sets it to 0 when it saves; the next process that runs the guest sets it for good.
    """
    return owner in (0, source_pid)
