# SPDX-License-Identifier: GPL-2.0-or-later
"""``result.json``: what one boot did, for programs.

The structures below are the document; schema/result.schema.json is made from them and a test
keeps it up to date: ``python -m cvmlab.result > control/cvmlab/schema/result.schema.json``.
Counts are of 4 KiB pages unless a name says otherwise, times are in seconds.
"""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from cvmlab.errors import ConfigError


SCHEMA_PATH: Final = Path(__file__).parent / "schema" / "result.schema.json"

Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
ExitCode = Annotated[int, Meta(ge=0, le=255)]


class Outcome(StrEnum):
    """How it ended; each has its exit code, see EXIT_CODES."""

    OK = "ok"
    GUEST_FAILED = "guest-failed"
    BUDGET_EXCEEDED = "budget-exceeded"
    HOST_FAULT = "host-fault"
    USE_BEFORE_ACCEPTANCE = "use-before-acceptance"
    MARKER_NOT_SEEN = "marker-not-seen"
    QEMU_DIED = "qemu-died"
    BAD_INPUT = "bad-input"
    DEFECT = "defect"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    GUEST_PANIC = "guest-panic"


EXIT_CODES: Final = {
    Outcome.OK: 0,
    Outcome.BUDGET_EXCEEDED: 80,
    Outcome.HOST_FAULT: 81,
    Outcome.USE_BEFORE_ACCEPTANCE: 82,
    Outcome.MARKER_NOT_SEEN: 83,
    Outcome.QEMU_DIED: 84,
    Outcome.BAD_INPUT: 85,
    Outcome.DEFECT: 86,
    Outcome.TIMEOUT: 124,
    Outcome.INTERRUPTED: 130,
    Outcome.GUEST_PANIC: 255,
}  # GUEST_FAILED has the guest's own status


class _Document(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Pages(_Document, frozen=True, kw_only=True):
    """Pages by state when the run ended."""

    pending: Count = 0
    private: Count = 0
    shared: Count = 0
    poisoned: Count = 0

    @property
    def total(self) -> int:
        return self.pending + self.private + self.shared + self.poisoned


class Counters(_Document, frozen=True, kw_only=True):
    """What happened during the run; a reboot of the guest clears none of them."""

    accepted: Count = 0
    to_shared: Count = 0
    to_private: Count = 0
    discarded: Count = 0
    poisoned: Count = 0
    loaded: Annotated[int, Meta(ge=0, description="pages of the launch image")] = 0
    conversions: Annotated[int, Meta(ge=0, description="requests, each of any number of pages")] = 0
    host_faults: Annotated[
        int, Meta(ge=0, description="host accesses not allowed, once a page, actor and direction")
    ] = 0
    host_accesses: Annotated[int, Meta(ge=0, description="the pieces in which those arrived")] = 0
    guest_faults: Count = 0
    guest_violations: Count = 0
    resets: Count = 0
    implicit_conversions: Annotated[
        int, Meta(ge=0, description="pages converted by use, because nobody had asked for it")
    ] = 0
    events_dropped: Annotated[
        int, Meta(ge=0, description="events lost; if not 0, details below are incomplete")
    ] = 0


class PhaseCounters(_Document, frozen=True, kw_only=True):
    """The part of the counters that falls into one phase."""

    accepted: Count = 0
    to_shared: Count = 0
    to_private: Count = 0
    host_faults: Count = 0


class Phase(_Document, frozen=True, kw_only=True):
    """A part of the boot: launch, firmware, efi-stub (--kernel under OVMF), kernel, user."""

    name: str
    seconds: Annotated[float, Meta(ge=0, description="of the guest's clock")]
    host_seconds: Seconds
    counters: PhaseCounters


class Fault(_Document, frozen=True, kw_only=True):
    """A host access to private memory, the first of ``count`` alike."""

    actor: str
    device: str | None
    gpa: Count
    write: bool
    state: str
    rip: Count | None
    symbol: str | None
    verdict: str
    count: Count


class Conversion(_Document, frozen=True, kw_only=True):
    """Pages that one actor converted from one function of the guest."""

    actor: str
    device: str | None
    to: str
    symbol: str | None
    pages: Count
    requests: Count


class FunctionCount(_Document, frozen=True, kw_only=True):
    """Pages that one function of the guest had accepted or converted in one phase."""

    phase: str
    change: Annotated[str, Meta(description="accepted, to_shared or to_private")]
    symbol: Annotated[str | None, Meta(description="null: not known, or no instruction's doing")]
    pages: Count
    requests: Count
    of_2m: Annotated[int, Meta(ge=0, description="whole pages of 2 MiB among them")] = 0
    of_1g: Annotated[int, Meta(ge=0, description="of 1 GiB")] = 0

    @property
    def of_4k(self) -> int:
        return self.pages - (self.of_2m << 9) - (self.of_1g << 18)


class Refused(_Document, frozen=True, kw_only=True):
    """Requests of the guest that were refused for one reason, from one function of it."""

    reason: Annotated[str, Meta(description="the rule, or by-policy: the host was told to")]
    symbol: str | None
    gpa: Annotated[int, Meta(ge=0, description="where the first one was refused")]
    pages: Annotated[int, Meta(ge=0, description="that the first one asked for")]
    requests: Count


class BudgetLine(_Document, frozen=True, kw_only=True):
    """A limit given on the command line, and what it was held against."""

    resource: str
    phase: str | None
    limit: Count
    measured: Count
    kept: bool


class CostTerm(_Document, frozen=True, kw_only=True):
    """What the operations behind one counter would take."""

    counter: str
    count: Count
    seconds_low: Seconds
    seconds_high: Seconds
    source: Annotated[tuple[str, ...], Meta(description="the public measurements")]


class Estimate(_Document, frozen=True, kw_only=True):
    """Time that page-state changes would take on hardware, from counts and public measurements."""

    is_estimate: Annotated[
        Literal[True],
        Meta(description="nothing was measured here; the range is that of the sources"),
    ] = True
    technology: str
    seconds_low: Seconds
    seconds_high: Seconds
    terms: tuple[CostTerm, ...]
    not_counted: Annotated[
        tuple[str, ...], Meta(description="counters nobody has measured the cost of")
    ] = ()


class Qemu(_Document, frozen=True, kw_only=True):
    """Which QEMU ran; ``patch`` is the hash of all that was added to it."""

    version: str
    patch: str | None


class Result(_Document, frozen=True, kw_only=True):
    """One boot, from the command to how it ended."""

    emulated: Annotated[
        Literal[True], Meta(description="visibility and state are emulated; nothing is secured")
    ] = True
    cvmlab: str
    outcome: Outcome
    exit_code: ExitCode
    message: Annotated[str, Meta(description="one sentence")]
    hint: str | None = None
    guest: Annotated[
        str | None, Meta(description="the name given, the image, or the file that was booted")
    ] = None
    coco: str
    layout: str | None = None
    on_host_access: str | None = None
    mapgpa: Annotated[str | None, Meta(description="policy on a TD's conversions")] = None
    firmware: str
    kernel: Annotated[str | None, Meta(description="release, such as 6.12.107+deb13")] = None
    memory_bytes: Count
    cpus: Count
    qemu: Qemu | None = None
    pages: Pages = Pages()
    counters: Counters = Counters()
    phases: tuple[Phase, ...] = ()
    faults: Annotated[tuple[Fault, ...], Meta(description="the first ones")] = ()
    conversions: tuple[Conversion, ...] = ()
    functions: Annotated[
        tuple[FunctionCount, ...], Meta(description="those with the most pages, by phase")
    ] = ()
    refused: tuple[Refused, ...] = ()
    budgets: tuple[BudgetLine, ...] = ()
    estimate: Estimate | None = None
    guest_exit: Annotated[int | None, Meta(description="status of the --exec command")] = None
    command: Annotated[tuple[str, ...], Meta(description="the QEMU command")] = ()
    run_dir: str | None = None
    started: Annotated[str, Meta(description="ISO 8601, UTC")]
    duration: Seconds


def to_json(result: Result) -> str:
    """Return the document as it is written to files and standard output."""
    return msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n"


def from_json(text: str | bytes) -> Result:
    """Read a document; raise ConfigError saying where it is not one."""
    try:
        return msgspec.json.decode(text, type=Result)
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"this is not a result of cvmlab: {error}", hint="`cvmlab boot --json FILE` writes one"
        ) from error


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the document."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "result.json of cvmlab",
        **msgspec.json.schema(Result),
    }


def schema_text() -> str:
    """Return the schema as it is in the repository."""
    return msgspec.json.format(msgspec.json.encode(schema()), indent=2).decode() + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
