# SPDX-License-Identifier: GPL-2.0-or-later
"""Replacing the QEMU under a running guest: what follows from what both QEMUs say.

The *source* has the guest, the *destination* shall get it.  Until the destination's CPUs run there
is a way back; whoever has the guest then is told by these tables, and by nothing else.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum, auto


# MigrationStatus of QEMU, in three groups.
_FAILED = ("failed", "cancelled")
_OVER = ("none", "completed", *_FAILED)
_LOADING = "inmigrate"
GONE = None


class Stage(StrEnum):
    """Where an upgrade is; its value is what is waited for, for messages."""

    SETTLE = "commands in flight and typed text to be taken"
    START = "the new QEMU to start"
    TRANSFER = "CPUs and devices to be transferred"
    VERIFY = "the new QEMU to describe its memory"
    COMMIT = "the new QEMU to run the guest"
    RETIRE = "the old QEMU to exit"


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A QEMU was replaced.  Versions are such as ``10.0.13``, times in seconds.

    ``downtime_s`` is from the stop of the guest's CPUs in the old QEMU to their start in the new one,
    ``bytes_sent`` what went from one to the other: CPUs and devices, never guest memory.
    """

    old_version: str
    new_version: str
    old_pid: int
    new_pid: int
    downtime_s: float
    total_s: float
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class Look:
    """What both say at one moment; None for a process that is gone.

    ``migration`` is the source's MigrationStatus, ``source`` and ``destination`` are run states.
    """

    migration: str | None
    source: str | None
    destination: str | None


class Transfer(Enum):
    """What to do while the transfer is under way."""

    WAIT = auto()
    LOADED = auto()  # the destination has all of it, the source has stopped
    BACK = auto()


def during_transfer(look: Look) -> Transfer:
    """Return what to do next; what never ends, a deadline ends."""
    if look.destination is GONE or look.migration in _FAILED:
        return Transfer.BACK
    loaded = look.destination != _LOADING
    # A source that died after it had sent everything is no loss: its work was done.
    if loaded and look.migration in (GONE, "completed"):
        return Transfer.LOADED
    return Transfer.WAIT


class WayBack(Enum):
    """What to do to a source whose destination is gone."""

    DONE = auto()  # it has the guest, as before
    WAIT = auto()  # it recovers by itself
    CANCEL = auto()
    CONT = auto()
    LOST = auto()


def on_the_way_back(look: Look) -> WayBack:
    """Return what to do next; the destination was killed before."""
    match look.migration, look.source:
        case (None, _) | (_, None):  # it may die between two questions
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
    """Say whether the source may still run the guest, by the owner word of the memory files.

    The source gives it up (0) when it saves; who runs the guest next takes it, once and for all.
    """
    return owner in (0, source_pid)
