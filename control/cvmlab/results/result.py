# SPDX-License-Identifier: GPL-2.0-or-later
"""``result.json``: what one boot did, for programs.

The structures below are the document; those with counts are made from the table of measures.
result.schema.json is made from the structures and a test keeps it up to date:
``python -m cvmlab.results.result > control/cvmlab/results/result.schema.json``.
Pages are of 4 KiB, times are in seconds.
"""

import sys
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from cvmlab.base.documents import NO_DOCUMENT, encoded
from cvmlab.base.errors import ConfigError
from cvmlab.memory.measures import MEASURES, Measures
from cvmlab.memory.records import named_actor
from cvmlab.results.counts import (
    Counters,
    PhaseCounters,
    counters_type,
    phase_counters_type,
    retyped,
)


SCHEMA_PATH: Final = Path(__file__).with_name("result.schema.json")
SCHEMA_VERSION: Final = 2

Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
ExitCode = Annotated[int, Meta(ge=0, le=255)]
Texts = tuple[str, ...]


class Outcome(StrEnum):
    """How it ended; each has its exit code, see EXIT_CODES, and may share it."""

    OK = "ok"
    GUEST_FAILED = "guest-failed"
    BUDGET_EXCEEDED = "budget-exceeded"
    HOST_FAULT = "host-fault"
    USE_BEFORE_ACCEPTANCE = "use-before-acceptance"
    MARKER_NOT_SEEN = "marker-not-seen"
    NOT_BOOTED = "not-booted"
    GUEST_RESET = "guest-reset"
    STOPPED = "stopped"
    QEMU_DIED = "qemu-died"
    DISK_ERROR = "disk-error"
    BAD_INPUT = "bad-input"
    DEFECT = "defect"
    UNAWARE = "unaware"
    MISUSE = "misuse"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    GUEST_PANIC = "guest-panic"
    TRIPLE_FAULT = "triple-fault"
    KERNEL_TROUBLE = "kernel-trouble"


EXIT_CODES: Final = {
    Outcome.OK: 0,
    Outcome.BUDGET_EXCEEDED: 80,
    Outcome.HOST_FAULT: 81,
    Outcome.USE_BEFORE_ACCEPTANCE: 82,
    Outcome.MARKER_NOT_SEEN: 83,
    Outcome.NOT_BOOTED: 83,
    Outcome.GUEST_RESET: 83,
    Outcome.STOPPED: 83,
    Outcome.QEMU_DIED: 84,
    Outcome.DISK_ERROR: 84,
    Outcome.BAD_INPUT: 85,
    Outcome.DEFECT: 86,
    Outcome.UNAWARE: 87,
    Outcome.MISUSE: 87,
    Outcome.TIMEOUT: 124,
    Outcome.INTERRUPTED: 130,
    Outcome.GUEST_PANIC: 255,
    Outcome.TRIPLE_FAULT: 255,
    Outcome.KERNEL_TROUBLE: 255,
}  # GUEST_FAILED has the guest's own status


CallChain = Annotated[tuple[str, ...], Meta(description="callers of *symbol*, the nearest first")]


class _Document(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class PagesByState(_Document, frozen=True, kw_only=True):
    """Pages by state when the run ended."""

    pending: Count = 0
    private: Count = 0
    shared: Count = 0
    poisoned: Count = 0

    @property
    def total(self) -> int:
        return self.pending + self.private + self.shared + self.poisoned


class PhaseResult(_Document, frozen=True, kw_only=True):
    """A part of the boot: launch, firmware, efi-stub (--kernel under OVMF), kernel, user."""

    name: str
    seconds: Annotated[float, Meta(ge=0, description="of the guest's clock")]
    host_seconds: Seconds
    counters: PhaseCounters


CPU_STATE: Final = "CPU state"


class HostAccess(_Document, frozen=True, kw_only=True):
    """A host access to private memory, the first of ``count`` alike.

    ``state`` is "CPU state" if it was to that; then ``gpa`` says nothing.
    """

    actor: str
    device: str | None
    gpa: Count
    write: bool
    state: str
    rip: Count | None
    symbol: str | None
    verdict: str
    count: Count
    callers: CallChain = ()

    @property
    def who(self) -> str:
        return named_actor(self.actor, self.device)

    @property
    def what(self) -> str:
        return self.state if self.state == CPU_STATE else f"{self.gpa:#x} ({self.state})"


class Conversion(_Document, frozen=True, kw_only=True):
    """Pages that one actor converted from one function of the guest, called by the same others."""

    actor: str
    device: str | None
    to: str
    symbol: str | None
    pages: Count
    requests: Count
    implicit: Annotated[
        bool, Meta(description="by use: the guest did not ask for it, the host noticed")
    ] = False
    callers: CallChain = ()
    guessed: Annotated[
        int | None, Meta(description="from this one on, callers were found by scanning the stack")
    ] = None


class FunctionCount(_Document, frozen=True, kw_only=True):
    """Pages that one function of the guest had accepted or converted in one phase."""

    phase: str
    change: Annotated[str, Meta(description="the counter: accepted, to_shared or to_private")]
    symbol: Annotated[str | None, Meta(description="null: unknown, or not caused by the guest")]
    pages: Count
    requests: Count
    of_2m: Annotated[int, Meta(ge=0, description="whole pages of 2 MiB among them")] = 0
    of_1g: Annotated[int, Meta(ge=0, description="of 1 GiB")] = 0

    @property
    def of_4k(self) -> int:
        return self.pages - (self.of_2m << 9) - (self.of_1g << 18)


class LastChange(_Document, frozen=True, kw_only=True):
    """Who changed a page last before something happened to it."""

    what: Annotated[str, Meta(description="accept, convert, discard, poison or load")]
    to: Annotated[str, Meta(description="the state that it gave the page")]
    actor: str
    seconds: Annotated[float, Meta(ge=0, description="on the guest's clock")]
    record: Annotated[int, Meta(ge=1, description="its number in the journal")]
    symbol: str | None = None
    callers: CallChain = ()


class GuestFault(_Document, frozen=True, kw_only=True):
    """An access of the guest that ended in a memory fault, the first of ``count`` alike."""

    case: str
    gpa: Count
    state: str
    access: Annotated[str, Meta(description="read, write, fetch or accept")]
    walk: Annotated[bool, Meta(description="of a page table, for the instruction at rip")]
    rip: Count | None
    symbol: str | None
    callers: CallChain = ()
    specification: Annotated[
        str | None, Meta(description="the fault in the words of the technology's specification")
    ] = None
    last_change: Annotated[
        LastChange | None, Meta(description="null: nothing changed it since the launch")
    ] = None
    record: Annotated[int, Meta(ge=1, description="its number in the journal")]
    count: Count


class Refused(_Document, frozen=True, kw_only=True):
    """Requests of the guest that were refused for one reason, from one function of it."""

    reason: Annotated[str, Meta(description="the rule, or by-policy: the host's policy refuses")]
    symbol: str | None
    gpa: Annotated[int, Meta(ge=0, description="of the first request")]
    pages: Annotated[int, Meta(ge=0, description="of the first request")]
    requests: Count
    callers: CallChain = ()


class KernelEvidence(_Document, frozen=True, kw_only=True):
    """What shows that the guest's kernel took part in what its profile is about."""

    interface: Annotated[str, Meta(description="what a kernel should speak, such as TDX")]
    proof: Annotated[str, Meta(description="what was counted, such as TDCALL")]
    kernel_ran: Annotated[bool, Meta(description="a kernel ran, and not only firmware")]
    kernel_calls: Annotated[int, Meta(ge=0, description="by the kernel, at its own addresses")]
    early_calls: Annotated[int, Meta(ge=0, description="by what ran before it")]
    spoke: Annotated[bool, Meta(description="the kernel did, or, where none ran, the guest")]
    required: Annotated[bool, Meta(description="a guest that does not speak fails")]
    first_exit: Annotated[
        str | None,
        Meta(description="of a kernel that does not speak: where hardware would have ended it"),
    ]


class BudgetLine(_Document, frozen=True, kw_only=True):
    """A limit given on the command line, and the count that it was compared with."""

    resource: str
    phase: str | None
    limit: Count
    measured: Count
    kept: bool


class CostTerm(_Document, frozen=True, kw_only=True):
    """The time that the operations behind one counter would take."""

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
    not_counted: Annotated[Texts, Meta(description="counters without a published cost")] = ()


class Qemu(_Document, frozen=True, kw_only=True):
    """Which QEMU ran; ``patch`` is the hash of what was added, ``tuning`` plain, lto or pgo."""

    version: str
    patch: str | None
    tuning: str | None = None


class RestoredFrom(_Document, frozen=True, kw_only=True):
    """A snapshot from which the guest went on; what was counted until then is the saved VM's."""

    snapshot: str
    saved: Annotated[str, Meta(description="when, in ISO 8601")]
    record: Annotated[int, Meta(ge=0, description="the last record of the journal that is older")]
    warm: Annotated[bool, Meta(description="kept by --warm when the guest's agent said hello")]


class Result(_Document, frozen=True, kw_only=True):
    """One boot, from the command to how it ended."""

    emulated: Annotated[
        Literal[True], Meta(description="visibility and state are emulated; nothing is secured")
    ] = True
    schema: Annotated[
        Literal[1, 2], Meta(description="version of this format; documents without it are of 1")
    ] = SCHEMA_VERSION
    cvmlab: str
    outcome: Outcome
    exit_code: ExitCode
    message: Annotated[str, Meta(description="one sentence")]
    hint: str | None = None
    guest: Annotated[
        str | None, Meta(description="the name given, the image, or the file that was booted")
    ] = None
    variant: Annotated[
        Texts, Meta(description="other options that shape the guest, such as net=user")
    ] = ()
    coco: str
    layout: str | None = None
    on_host_access: str | None = None
    architecture: Annotated[str | None, Meta(description="of the guest, as uname -m has it")] = None
    mapgpa: Annotated[str | None, Meta(description="policy on a TD's conversions")] = None
    ripas: Annotated[str | None, Meta(description="policy on a realm's conversions")] = None
    late: Annotated[bool, Meta(description="unprotected until the kernel was a realm")] = False
    firmware: str
    kernel: Annotated[str | None, Meta(description="release, such as 6.12.107+deb13")] = None
    memory_bytes: Count
    cpus: Count
    qemu: Qemu | None = None
    restored: RestoredFrom | None = None
    pages: PagesByState = PagesByState()
    counters: Counters = Counters()
    phases: tuple[PhaseResult, ...] = ()
    faults: Annotated[tuple[HostAccess, ...], Meta(description="the first host faults")] = ()
    allowed: Annotated[
        tuple[HostAccess, ...],
        Meta(description="the first host accesses that were allowed; they are no host faults"),
    ] = ()
    conversions: tuple[Conversion, ...] = ()
    functions: Annotated[
        tuple[FunctionCount, ...], Meta(description="those with the most pages, by phase")
    ] = ()
    refused: tuple[Refused, ...] = ()
    evidence: Annotated[
        KernelEvidence | None, Meta(description="null: the profile asks nothing of the kernel")
    ] = None
    kernel_trouble: Annotated[
        Texts, Meta(description="the first lines of the kernel that fail a boot")
    ] = ()
    guest_faults: Annotated[
        tuple[GuestFault, ...], Meta(description="the first; the guest may have survived them")
    ] = ()
    unnamed: Annotated[Texts, Meta(description="why some functions of the guest have no name")] = ()
    budgets: tuple[BudgetLine, ...] = ()
    estimate: Estimate | None = None
    guest_exit: Annotated[int | None, Meta(description="status of the --exec command")] = None
    output: Annotated[
        str | None,
        Meta(description="what the --exec command printed; of a long one the last 64 KiB"),
    ] = None
    command: Annotated[tuple[str, ...], Meta(description="the QEMU command")] = ()
    run_dir: str | None = None
    started: Annotated[str, Meta(description="ISO 8601, UTC")]
    duration: Seconds


def to_json(result: Result) -> str:
    """Return the document as it is written to files and standard output."""
    return msgspec.json.format(encoded(result), indent=2).decode() + "\n"


@cache
def result_type(measures: Measures) -> type[Result]:
    """Return Result with the counts of *measures*."""
    if measures == MEASURES:
        return Result
    phase = retyped(PhaseResult, counters=phase_counters_type(measures))
    return retyped(Result, counters=counters_type(measures), phases=tuple[phase, ...])  # type: ignore[valid-type]


def from_json(text: str | bytes, measures: Measures = MEASURES) -> Result:
    """Read a document; raise ConfigError saying where it is not one."""
    try:
        return msgspec.json.decode(text, type=result_type(measures))
    except NO_DOCUMENT as error:
        raise ConfigError(
            f"this is not a result of cvmlab: {error}", hint="`cvmlab boot --json FILE` writes one"
        ) from error


def schema(measures: Measures = MEASURES) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the document."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "result.json of cvmlab",
        **msgspec.json.schema(result_type(measures)),
    }


def schema_text(measures: Measures = MEASURES) -> str:
    """Return the schema as it is in the repository."""
    return msgspec.json.format(msgspec.json.encode(schema(measures)), indent=2).decode() + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
