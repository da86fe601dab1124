# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of a boot, for people: what booted, what it did to its memory, and what to do now."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter

from cvmlab.base.safe_text import safe
from cvmlab.memory.measures import MEASURES, Measures
from cvmlab.memory.page_map import share
from cvmlab.memory.ranges import PAGE_SIZE, format_size
from cvmlab.memory.states import Layout
from cvmlab.profiles.architecture import DEFAULT_ARCHITECTURE
from cvmlab.profiles.profile import HostPolicy
from cvmlab.profiles.profile_rows import PROFILES
from cvmlab.results.budgets import describe
from cvmlab.results.guest_faults import say as say_guest_fault
from cvmlab.results.result import (
    Conversion,
    Estimate,
    FunctionCount,
    HostAccess,
    KernelEvidence,
    Outcome,
    PhaseResult,
    RestoredFrom,
    Result,
)


FAULTS_SHOWN = 4  # of each actor
CONVERSIONS_SHOWN = 8
CALLERS_SHOWN = 4
CONSOLE_LINES = 20
EMULATED = "emulated: page states and visibility only, nothing is encrypted or secured"

_ADVICE = {
    Outcome.GUEST_FAILED: "see the command's output above; exec.log and console.log have all of it",
    Outcome.BUDGET_EXCEEDED: "see the guest functions above; raise the limit if this is intended",
    Outcome.HOST_FAULT: "a guest must share a page before a device uses it; see the functions above",
    Outcome.USE_BEFORE_ACCEPTANCE: "the guest must accept a page before it touches it",
    Outcome.MARKER_NOT_SEEN: "is --expect right? It is a regular expression for one console line",
    Outcome.NOT_BOOTED: "is the disk bootable by this firmware, and is it the right firmware?",
    Outcome.GUEST_RESET: "the last console lines may show why; --allow-reboot lets it reset",
    Outcome.STOPPED: None,
    Outcome.QEMU_DIED: "see QEMU's last messages in qemu.log, in the run folder",
    Outcome.TIMEOUT: "the guest may be slow: try a larger --timeout",
    Outcome.GUEST_PANIC: "the last console lines show the cause",
    Outcome.TRIPLE_FAULT: "was the firmware made for this profile? --gdb stops where you want",
    Outcome.KERNEL_TROUBLE: "see the kernel's lines above; --fail-on none lets such a boot pass",
    Outcome.MISUSE: "a host cannot answer this, and ends the guest",
    Outcome.INTERRUPTED: None,
}
_AGENTLESS = (
    "the command runs if the guest's init calls /cvmlab/agent: guest-images/README.md shows how"
)
_STARVES = ("deny", "zero")
_UNRELATED = (Outcome.GUEST_FAILED, Outcome.INTERRUPTED, Outcome.BUDGET_EXCEEDED)
_UNAWARE = (
    "this guest does not share memory with its devices: --on-host-access share lets them work, "
    "and counts what they touch"
)


def render(
    result: Result,
    *,
    console: Sequence[str] = (),
    verbose: bool = False,
    measures: Measures = MEASURES,
) -> str:
    """Return the report; *console* is the guest's last lines, shown if something is wrong."""
    limit = None if verbose else FAULTS_SHOWN
    blocks = [
        _what(result),
        _phases(result.phases, measures),
        _pages(result),
        _others(result, measures),
        _conversions(result.conversions, None if verbose else CONVERSIONS_SHOWN),
        _sizes(result.functions),
        _refused(result),
        _guest_faults(result, limit),
        _faults(result, limit),
        _allowed(result, limit),
        _unnamed(result),
        _estimate(result.estimate),
        _budgets(result, measures),
        _trouble(result),
        _output(result.output),
        _verdict(result, console[-CONSOLE_LINES:]),
    ]
    texts = ("\n".join(block) for block in map(list, blocks) if block)
    return safe("\n\n".join(texts) + "\n")


def details(result: Result, measures: Measures = MEASURES) -> Iterator[tuple[str, list[str]]]:
    """Yield title and lines of each block that is a list of sentences, for another kind of report."""
    blocks = {
        "Budgets": _budgets(result, measures),
        "Conversions": _conversions(result.conversions, None),
        "Refused requests": _refused(result),
        "Estimate": _estimate(result.estimate),
        "Output of the guest's command": iter((result.output or "").splitlines()),
    }
    for title, block in blocks.items():
        lines = [safe(line) for line in block]
        if lines:
            yield title, lines


def _what(result: Result) -> Iterator[str]:
    yield f"cvmlab boot, profile {result.coco} ({EMULATED})"
    if result.kernel is not None:
        yield f"  kernel    {result.kernel}"
    cpus = f"{result.cpus} CPU{'s' if result.cpus != 1 else ''}"
    size = format_size(result.memory_bytes)
    is_usual = result.architecture in (None, DEFAULT_ARCHITECTURE.name)
    architecture = "" if is_usual else f"{result.architecture}, "
    yield f"  machine   {architecture}{result.firmware}, {cpus}, {size} of memory"
    interface = PROFILES[result.coco].interface if result.late else None
    if interface is not None:
        yield f"  late      {interface.late}"
    if result.qemu is not None:
        patch = f", patch {result.qemu.patch[:12]}" if result.qemu.patch else ""
        tuning = f", {result.qemu.tuning}" if result.qemu.tuning else ""
        yield f"  qemu      {result.qemu.version}{tuning}{patch}"
    if result.layout is not None:
        answers = "".join(f", {policy.subject}: {answer}" for policy, answer in _answers(result))
        yield f"  memory    {result.layout}, host access: {result.on_host_access}{answers}"
    if result.restored is not None:
        yield f"  restored  {say_restored(result.restored)}"
    if result.evidence is not None:
        yield f"  guest     {say_evidence(result.evidence)}"


def say_restored(origin: RestoredFrom) -> str:
    """Return where a guest that was not booted comes from, in a line."""
    if origin.warm:
        return f"at hello; counts of firmware and kernel are those of the boot of {origin.saved}"
    return f"from {origin.snapshot}, saved {origin.saved}; counts until then are that VM's"


def say_evidence(evidence: KernelEvidence) -> str:
    """Return what shows that the guest's kernel took part, in a line."""
    calls, early = evidence.kernel_calls, evidence.early_calls
    who = "kernel" if evidence.kernel_ran else "guest"
    before = f", {early} before it ran" if early and evidence.kernel_ran else ""
    if evidence.spoke:
        count = calls or early
        return f"its {who} spoke {evidence.interface}: {count} uses{before} ({evidence.proof})"
    silent = "never spoke" if evidence.required else "did not speak"
    return f"its {who} {silent} {evidence.interface}: no {evidence.proof} of its own{before}"


_NAME_WIDTH, _SECONDS_WIDTHS, _COUNT_WIDTH = 12, (8, 9), 11


def _phases(phases: Sequence[PhaseResult], measures: Measures) -> Iterator[str]:
    if not phases:
        return
    rows = measures.shown(*(phase.counters.as_dict() for phase in phases))
    widths = [*_SECONDS_WIDTHS, *(max(_COUNT_WIDTH, len(row.label) + 2) for row in rows)]

    def line(name: str, *values: object) -> str:
        cells = (f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
        return f"{name:<{_NAME_WIDTH}}{''.join(cells)}"

    yield line("Phase", "guest s", "host s", *(row.label for row in rows))
    for phase in phases:
        seconds = (f"{phase.seconds:.2f}", f"{phase.host_seconds:.2f}")
        yield line(f"  {phase.name}", *seconds, *(phase.counters[row.name] for row in rows))


def _pages(result: Result) -> Iterator[str]:
    pages, counters = result.pages, result.counters
    if not pages.total:
        return
    yield f"Pages       {pages.total} of 4 KiB"
    for state in ("private", "pending", "shared", "poisoned"):
        number = getattr(pages, state)
        if number or state != "poisoned":
            yield f"  {state:<10}{number:>9}  {share(number, pages.total):>9}"
    yield f"  accepted  {counters.accepted:>9}"
    if counters.loaded:
        yield f"  loaded    {counters.loaded:>9}  with the launch image, private without acceptance"


def _others(result: Result, measures: Measures) -> Iterator[str]:
    if said := others(result, measures):
        yield f"Also        {', '.join(said)}"


def others(result: Result, measures: Measures = MEASURES) -> list[str]:
    """Return the other counts that are not 0: those that no part of a report shows."""
    counts = result.counters.as_dict()
    rows = [row for row in measures if row.listed and not row.per_phase]
    return [row.say(counts[row.name]) for row in rows if counts.get(row.name)]


def _conversions(conversions: Sequence[Conversion], limit: int | None) -> Iterator[str]:
    if not conversions:
        return
    yield f"Conversions {sum(item.pages for item in conversions)} pages"
    for item in conversions[:limit]:
        yield f"  {say_conversion(item)}"
        yield from _called_by(item.callers, limit, item.guessed)
    yield from _more(len(conversions), limit)


def say_conversion(item: Conversion) -> str:
    """Return who converted how many pages to what, in a line."""
    by = f" {item.device}" if item.device else ""
    where = f", in {item.symbol}" if item.symbol else ""
    how = "by use, without a request" if item.implicit else f"in {_requests(item.requests)}"
    return f"{item.pages} to {item.to} by {item.actor}{by} {how}{where}"


def _called_by(
    callers: Sequence[str], limit: int | None, guessed: int | None = None
) -> Iterator[str]:
    """Yield a line that names who called, the nearest first; from *guessed* on it is a guess."""
    if not callers:
        return
    shown, rest = callers[: None if limit is None else CALLERS_SHOWN], ""
    if len(shown) < len(callers):
        # A driver is behind many functions of its bus.
        driver = next((name for name in callers[len(shown) :] if name.endswith("]")), None)
        rest = ", …" if driver is None else f", … {driver}, …"
    guess = ""
    if guessed is not None and guessed < len(shown):
        guess = f" (from {shown[guessed]} on by a scan of the stack)"
    yield f"      called by {', '.join(shown)}{rest}{guess}"


def _guest_faults(result: Result, limit: int | None) -> Iterator[str]:
    number = result.counters.guest_faults
    if not number or not result.guest_faults:
        return
    yield f"Guest faults {number}"
    for fault in result.guest_faults[:limit]:
        times = f", {fault.count} times" if fault.count > 1 else ""
        yield f"  {say_guest_fault(fault)}{times}"
        yield from _called_by(fault.callers, limit)
    yield from _more(len(result.guest_faults), limit)


def _unnamed(result: Result) -> Iterator[str]:
    for reason in result.unnamed:
        yield f"Unnamed     {reason}"


_SIZE_ROW = "{:<22}{:>9}{:>8}{:>7}{}"


def _sizes(functions: Sequence[FunctionCount]) -> Iterator[str]:
    if not any(item.of_2m or item.of_1g for item in functions):
        return  # all pages were of 4 KiB: the blocks above show everything
    yield _SIZE_ROW.format("By size", "of 4K", "of 2M", "of 1G", "")
    for item in functions:
        where = f"  {item.symbol}" if item.symbol else ""
        name = f"  {item.phase:<10}{item.change.replace('_', ' ')}"
        yield _SIZE_ROW.format(name, item.of_4k, item.of_2m, item.of_1g, where)


def _refused(result: Result) -> Iterator[str]:
    requests = sum(item.requests for item in result.refused)
    if not requests:
        return
    yield f"Refused     {_requests(requests)} of the guest"
    for item in result.refused:
        where = f", in {item.symbol}" if item.symbol else ""
        what = f"{item.gpa:#x}+{format_size(item.pages * PAGE_SIZE)}"
        yield f"  {item.requests} {item.reason}{where}, the first of {what}"
        yield from _called_by(item.callers, FAULTS_SHOWN)


def _requests(number: int) -> str:
    return f"{number} request{'s' if number != 1 else ''}"


def _faults(result: Result, limit: int | None) -> Iterator[str]:
    number = result.counters.host_faults
    if number:
        yield f"Host faults {number}, in {result.counters.host_accesses} accesses"
        yield from _by_actor(result.faults, limit)


def _allowed(result: Result, limit: int | None) -> Iterator[str]:
    number = result.counters.allowed_accesses
    if number:
        noun = "access" if number == 1 else "accesses"
        yield f"Allowed     {number} host {noun}, because the VM is debuggable; no host faults"
        yield from _by_actor(result.allowed, limit)


def _by_actor(accesses: Sequence[HostAccess], limit: int | None) -> Iterator[str]:
    by_who = attrgetter("who")
    for who, group in groupby(sorted(accesses, key=by_who), by_who):
        found = list(group)
        yield f"  {who}"
        for access in found[:limit]:
            yield f"    {say_access(access)}"
            yield from _called_by(access.callers, limit)
        yield from _more(len(found), limit, indent="    ")


def say_access(access: HostAccess) -> str:
    """Return what an actor did, where, and the verdict on it, in a line."""
    way = "wrote" if access.write else "read"
    where = access.symbol or (f"{access.rip:#x}" if access.rip else None)
    during = f", guest in {where}" if where else ""
    times = f", {access.count} times" if access.count > 1 else ""
    return f"{way} {access.what}: {access.verdict}{times}{during}"


def _more(number: int, limit: int | None, *, indent: str = "  ") -> Iterator[str]:
    if limit is not None and number > limit:
        yield f"{indent}and {number - limit} more, in result.json"


def _estimate(estimate: Estimate | None) -> Iterator[str]:
    if estimate is None:
        return
    low, high = estimate.seconds_low, estimate.seconds_high
    counted = ", ".join(f"{term.count} {term.counter}" for term in estimate.terms)
    left = f"; not counted: {', '.join(estimate.not_counted)}" if estimate.not_counted else ""
    yield f"Estimate    {low:.2f} to {high:.2f} s of {estimate.technology} hardware for {counted}{left}"
    yield "            (an estimate from public measurements, which result.json cites)"


def _budgets(result: Result, measures: Measures) -> Iterator[str]:
    for line in result.budgets:
        yield f"Budget      {describe(line, measures)}: {'kept' if line.kept else 'BROKEN'}"


def _trouble(result: Result) -> Iterator[str]:
    if result.kernel_trouble:
        yield "Kernel log"
        yield from (f"  {line}" for line in result.kernel_trouble)


def _output(output: str | None) -> Iterator[str]:
    if output:
        yield "Output of the guest's command"
        yield from (f"    {line}" for line in output.splitlines())


def _verdict(result: Result, console: Sequence[str]) -> Iterator[str]:
    dropped = result.counters.events_dropped
    if dropped:
        yield f"{dropped} events were dropped: the lists above are incomplete, the counts are not"
    good = result.outcome is Outcome.OK
    yield f"{'OK' if good else 'FAILED'}: {result.message} (exit code {result.exit_code})"
    if good:
        return
    text = result.hint or advice(result)
    if text is not None:
        yield f"advice: {text}"
    if console and not (result.output and result.outcome is Outcome.GUEST_FAILED):
        yield "last console lines:"
        yield from (f"    {line}" for line in console)
    if result.run_dir is not None:
        yield f"run folder: {result.run_dir}"


def _answers(result: Result) -> Iterator[tuple[HostPolicy, str]]:
    """Yield how the host answered requests for conversions, where an option said it."""
    for policy in PROFILES.host_policies:
        answer = getattr(result, policy.option)
        if answer:
            yield policy, answer


def advice(result: Result) -> str | None:
    """Return one line of advice, if there is any to give."""
    starved = any(fault.actor == "device" and fault.verdict in _STARVES for fault in result.faults)
    if starved and result.layout == Layout.IN_PLACE and result.outcome not in _UNRELATED:
        return _UNAWARE
    for policy, answer in _answers(result):
        if answer != "all":
            return f"its conversions were answered by --{policy.option}: {policy.effect}"
    if result.outcome is Outcome.MARKER_NOT_SEEN and not result.message.startswith("never saw"):
        # No --expect was given that could be wrong.
        return _AGENTLESS if "before its command" in result.message else None
    return _ADVICE.get(result.outcome)
