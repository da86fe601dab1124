# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of a boot, for people: what booted, what it did to its memory, and what to do now."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from cvmlab.budgets import describe
from cvmlab.pagemap import share
from cvmlab.ranges import PAGE_SIZE, format_size
from cvmlab.result import Conversion, Estimate, Fault, FunctionCount, Outcome, Phase, Result


FAULTS_SHOWN = 4  # of each actor
CONVERSIONS_SHOWN = 8
CONSOLE_LINES = 20
EMULATED = "emulated: page states and visibility only, nothing is encrypted or secured"

_ADVICE = {
    Outcome.GUEST_FAILED: "the command's output is on the console, in console.log",
    Outcome.BUDGET_EXCEEDED: "`Conversions` above says who; raise the limit if that is as it should be",
    Outcome.HOST_FAULT: "a guest must share a page before a device uses it; see the functions above",
    Outcome.USE_BEFORE_ACCEPTANCE: "the guest must accept a page before it touches it",
    Outcome.MARKER_NOT_SEEN: "is --expect right? It is a regular expression for one console line",
    Outcome.QEMU_DIED: "qemu.log in the run folder has QEMU's last words",
    Outcome.TIMEOUT: "the guest may only be slow: try a larger --timeout",
    Outcome.GUEST_PANIC: "the console's last lines say why",
    Outcome.INTERRUPTED: None,
}
_STARVES = ("deny", "zero")
_UNRELATED = (Outcome.GUEST_FAILED, Outcome.INTERRUPTED, Outcome.BUDGET_EXCEEDED)
_UNAWARE = (
    "this guest does not share memory with its devices: --on-host-access share lets them work, "
    "and counts what they touch"
)
_UNCONVERTED = (
    "its conversions were answered by --mapgpa: Linux gives one up when it is refused, or told to "
    "retry three times without progress; then its drivers have no memory to share"
)


def render(result: Result, *, console: Sequence[str] = (), verbose: bool = False) -> str:
    """Return the report; *console* is the guest's last lines, shown if something is wrong."""
    limit = None if verbose else FAULTS_SHOWN
    blocks = [
        _what(result),
        _phases(result.phases),
        _pages(result),
        _conversions(result.conversions, None if verbose else CONVERSIONS_SHOWN),
        _sizes(result.functions),
        _refused(result),
        _faults(result, limit),
        _estimate(result.estimate),
        _budgets(result),
        _verdict(result, console[-CONSOLE_LINES:]),
    ]
    texts = ("\n".join(block) for block in map(list, blocks) if block)
    return "\n\n".join(texts) + "\n"


def _what(result: Result) -> Iterator[str]:
    yield f"cvmlab boot, profile {result.coco} ({EMULATED})"
    if result.kernel is not None:
        yield f"  kernel    {result.kernel}"
    cpus = f"{result.cpus} CPU{'s' if result.cpus != 1 else ''}"
    yield f"  machine   {result.firmware}, {cpus}, {format_size(result.memory_bytes)} of memory"
    if result.qemu is not None:
        patch = f", patch {result.qemu.patch[:12]}" if result.qemu.patch else ""
        yield f"  qemu      {result.qemu.version}{patch}"
    if result.layout is not None:
        answers = f", MapGPA: {result.mapgpa}" if result.mapgpa else ""
        yield f"  memory    {result.layout}, host access: {result.on_host_access}{answers}"


def _phases(phases: Sequence[Phase]) -> Iterator[str]:
    if not phases:
        return
    yield _PHASE_ROW.format(
        "Phase", "guest s", "host s", "accepted", "to shared", "to private", "host faults"
    )
    for phase in phases:
        counters = phase.counters
        yield _PHASE_ROW.format(
            f"  {phase.name}",
            f"{phase.seconds:.2f}",
            f"{phase.host_seconds:.2f}",
            counters.accepted,
            counters.to_shared,
            counters.to_private,
            counters.host_faults,
        )


_PHASE_ROW = "{:<12}{:>8}{:>9}{:>11}{:>11}{:>12}{:>13}"


def _pages(result: Result) -> Iterator[str]:
    pages, counters = result.pages, result.counters
    if not pages.total:
        return
    yield f"Pages       {pages.total} of 4 KiB"
    for state in ("private", "pending", "shared", "poisoned"):
        number = getattr(pages, state)
        if number or state != "poisoned":
            yield f"  {state:<10}{number:>9}  {share(number, pages.total):>9}"
    launch = f", {counters.loaded} of the launch image" if counters.loaded else ""
    yield f"  accepted  {counters.accepted:>9}{launch}"


def _conversions(conversions: Sequence[Conversion], limit: int | None) -> Iterator[str]:
    if not conversions:
        return
    yield f"Conversions {sum(item.pages for item in conversions)} pages"
    yield from (f"  {say_conversion(item)}" for item in conversions[:limit])
    yield from _more(len(conversions), limit)


def say_conversion(item: Conversion) -> str:
    """Return who converted how many pages to what, in a line."""
    by = f" {item.device}" if item.device else ""
    where = f", in {item.symbol}" if item.symbol else ""
    return f"{item.pages} to {item.to} by {item.actor}{by} in {_requests(item.requests)}{where}"


_SIZE_ROW = "{:<22}{:>9}{:>8}{:>7}{}"


def _sizes(functions: Sequence[FunctionCount]) -> Iterator[str]:
    if not any(item.of_2m or item.of_1g for item in functions):
        return  # the lists above say it all: each page was one of 4 KiB
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


def _requests(number: int) -> str:
    return f"{number} request{'s' if number != 1 else ''}"


def _faults(result: Result, limit: int | None) -> Iterator[str]:
    number = result.counters.host_faults
    if not number:
        return
    yield f"Host faults {number}, in {result.counters.host_accesses} accesses"
    ordered = sorted(result.faults, key=_actor)
    for actor, group in groupby(ordered, _actor):
        faults = list(group)
        yield f"  {actor}"
        yield from (f"    {say_fault(fault)}" for fault in faults[:limit])
        yield from _more(len(faults), limit, indent="    ")


def _actor(fault: Fault) -> str:
    return f"{fault.actor} {fault.device}" if fault.device else fault.actor


def say_fault(fault: Fault) -> str:
    """Return what an actor did, where, and what became of it, in a line."""
    way = "wrote" if fault.write else "read"
    where = fault.symbol or (f"{fault.rip:#x}" if fault.rip else None)
    during = f", guest in {where}" if where else ""
    times = f", {fault.count} times" if fault.count > 1 else ""
    return f"{way} {fault.gpa:#x} ({fault.state}): {fault.verdict}{times}{during}"


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
    yield "            (an estimate by public measurements, which result.json cites)"


def _budgets(result: Result) -> Iterator[str]:
    for line in result.budgets:
        yield f"Budget      {describe(line)}: {'kept' if line.kept else 'BROKEN'}"


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
    if console:
        yield "last console lines:"
        yield from (f"    {line}" for line in console)
    if result.run_dir is not None:
        yield f"run folder: {result.run_dir}"


def advice(result: Result) -> str | None:
    """Return one line of advice, if there is any to give."""
    starved = any(fault.actor == "device" and fault.verdict in _STARVES for fault in result.faults)
    if starved and result.coco == "generic" and result.outcome not in _UNRELATED:
        return _UNAWARE
    if result.mapgpa is not None and result.mapgpa != "all":
        return _UNCONVERTED
    return _ADVICE.get(result.outcome)
