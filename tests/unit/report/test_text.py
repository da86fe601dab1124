# SPDX-License-Identifier: GPL-2.0-or-later
from typing import Any

import msgspec
import pytest

from cvmlab.report import text as report
from cvmlab.results import result
from cvmlab.results.counts import Counters, PhaseCounters
from cvmlab.results.result import Outcome, Result


def fault(**changes: Any) -> result.HostAccess:
    values: dict[str, Any] = {
        "actor": "device",
        "device": "disk0-pci",
        "gpa": 0x1234010,
        "write": True,
        "state": "private",
        "rip": 0xFFFF_FFFF_8100_0040,
        "symbol": "virtqueue_add+0x40",
        "verdict": "deny",
        "count": 1,
    }
    return result.HostAccess(**{**values, **changes})


BOOTED = Result(
    cvmlab="0.1.0",
    outcome=Outcome.OK,
    exit_code=0,
    message="the guest booted",
    coco="generic",
    layout="in-place",
    on_host_access="deny",
    firmware="seabios",
    kernel="6.12.107+deb13-cloud-amd64",
    memory_bytes=1 << 30,
    cpus=1,
    qemu=result.Qemu(version="10.0.13", patch="0123456789abcdef", tuning="lto"),
    pages=result.PagesByState(pending=200_000, private=62_144),
    counters=Counters(accepted=62_000, loaded=144),
    phases=(
        result.PhaseResult(
            name="firmware",
            seconds=0.5,
            host_seconds=0.625,
            counters=PhaseCounters(accepted=300),
        ),
    ),
    started="2026-01-02T03:04:05Z",
    duration=3.5,
    run_dir="/runs/one",
)


def changed(**changes: Any) -> Result:
    return msgspec.structs.replace(BOOTED, **changes)


@pytest.mark.fault("V7")
def test_the_report_of_a_good_boot_is_short_and_says_that_it_is_emulated() -> None:
    assert report.render(BOOTED, console=("login:",)).splitlines() == [
        "cvmlab boot, profile generic"
        " (emulated: page states and visibility only, nothing is encrypted or secured)",
        "  kernel    6.12.107+deb13-cloud-amd64",
        "  machine   seabios, 1 CPU, 1G of memory",
        "  qemu      10.0.13, lto, patch 0123456789ab",
        "  memory    in-place, host access: deny",
        "",
        "Phase        guest s   host s   accepted  to shared  to private  host faults",
        "  firmware      0.50     0.62        300          0           0            0",
        "",
        "Pages       262144 of 4 KiB",
        "  private       62144     23.7 %",
        "  pending      200000     76.3 %",
        "  shared            0        0 %",
        "  accepted      62000",
        "  loaded          144  with the launch image, private without acceptance",
        "",
        "OK: the guest booted (exit code 0)",
    ]


def test_a_failure_has_advice_the_console_and_the_run_folder() -> None:
    failed = changed(outcome=Outcome.TIMEOUT, exit_code=124, message="waited 10 s for power-off")

    lines = report.render(failed, console=("booting", "still booting")).splitlines()

    assert lines[-6:] == [
        "FAILED: waited 10 s for power-off (exit code 124)",
        "advice: the guest may be slow: try a larger --timeout",
        "last console lines:",
        "    booting",
        "    still booting",
        "run folder: /runs/one",
    ]


def test_faults_are_told_by_actor_with_page_direction_and_function() -> None:
    faults = (
        fault(),
        fault(actor="monitor", device=None, write=False, symbol=None, rip=None),
        fault(gpa=0x2000, symbol=None, count=3),
    )
    text = report.render(changed(faults=faults, counters=Counters(host_faults=5, host_accesses=99)))

    block = text[text.index("Host faults") :].split("\n\n", maxsplit=1)[0]
    assert block.splitlines() == [
        "Host faults 5, in 99 accesses",
        "  device disk0-pci",
        "    wrote 0x1234010 (private): deny, guest in virtqueue_add+0x40",
        "    wrote 0x2000 (private): deny, 3 times, guest in 0xffffffff81000040",
        "  monitor",
        "    read 0x1234010 (private): deny",
    ]


def test_many_faults_are_cut_unless_asked_for() -> None:
    many = changed(
        faults=tuple(fault(gpa=page << 12) for page in range(10)),
        counters=Counters(host_faults=10, host_accesses=10),
    )

    few = changed(faults=many.faults[: report.FAULTS_SHOWN], counters=many.counters)

    assert "    and 6 more, in result.json" in report.render(many).splitlines()
    assert "more, in result.json" not in report.render(few)
    assert ", 1 times" not in report.render(many)
    assert "more, in result.json" not in report.render(many, verbose=True)


def test_conversions_say_who_asked_and_from_where() -> None:
    made = (
        result.Conversion(
            actor="vcpu",
            device=None,
            to="shared",
            symbol="set_memory_decrypted",
            pages=1024,
            requests=2,
        ),
        result.Conversion(
            actor="device", device="net0-pci", to="shared", symbol=None, pages=1, requests=1
        ),
    )

    lines = report.render(changed(conversions=made)).splitlines()

    assert lines[lines.index("Conversions 1025 pages") :][:3] == [
        "Conversions 1025 pages",
        "  1024 to shared by vcpu in 2 requests, in set_memory_decrypted",
        "  1 to shared by device net0-pci in 1 request",
    ]


def test_dropped_events_are_owned_up_to() -> None:
    text = report.render(changed(counters=Counters(events_dropped=7)))

    assert "7 events were dropped: the lists above are incomplete, the counts are not" in text


def test_budgets_are_listed_kept_or_broken() -> None:
    lines = report.render(
        changed(
            budgets=(
                result.BudgetLine(
                    resource="accepts", phase="kernel", limit=5, measured=6, kept=False
                ),
            )
        )
    )

    assert "6 accepted pages in phase kernel, 5 are allowed: BROKEN" in lines


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_renders(outcome: Outcome) -> None:
    text = report.render(changed(outcome=outcome, exit_code=1))

    assert (outcome is Outcome.OK) == ("\nOK: " in text)


def test_a_generic_guest_whose_devices_were_denied_is_told_about_share() -> None:
    stuck = changed(outcome=Outcome.TIMEOUT, faults=(fault(),))

    assert "--on-host-access share" in str(report.advice(stuck))
    assert "--on-host-access share" not in str(
        report.advice(msgspec.structs.replace(stuck, coco="sw-protected", layout="split"))
    )


def test_the_hint_of_an_error_takes_the_place_of_advice() -> None:
    text = report.render(changed(outcome=Outcome.BAD_INPUT, exit_code=85, hint="do this"))

    assert "advice: do this" in text


def test_sizes_are_shown_where_not_all_pages_are_small() -> None:
    def item(of_2m: int) -> result.FunctionCount:
        return result.FunctionCount(
            phase="efi-stub", change="to_shared", symbol="work", requests=4,
            pages=3 + of_2m * 512, of_2m=of_2m,
        )  # fmt: skip

    assert "By size" not in report.render(changed(functions=(item(0),)))
    text = report.render(changed(functions=(item(512),)))
    block = text[text.index("By size") :].split("\n\n", maxsplit=1)[0]
    assert block.splitlines() == [
        "By size                   of 4K   of 2M  of 1G",
        "  efi-stub  to shared         3     512      0  work",
    ]


def test_a_refused_conversion_is_explained() -> None:
    refused = result.Refused(
        reason="by-policy", symbol="__tdcall", gpa=0x7E000000, pages=16384, requests=2
    )
    bad = changed(refused=(refused,), mapgpa="refuse", outcome=Outcome.GUEST_FAILED, exit_code=1)
    text = report.render(bad)
    assert "host access: deny, MapGPA: refuse" in text
    assert "  2 by-policy, in __tdcall, the first of 0x7e000000+64M" in text
    assert "advice: its conversions were answered by --mapgpa" in text
    assert "--mapgpa" not in report.render(changed(mapgpa="all", outcome=Outcome.GUEST_FAILED))


def test_an_estimate_is_called_one_and_says_what_it_leaves_out() -> None:
    term = result.CostTerm(
        counter="accepted", count=100, seconds_low=0.5, seconds_high=1, source=("somebody",)
    )
    estimate = result.Estimate(
        technology="tdx", seconds_low=0.5, seconds_high=1, terms=(term,), not_counted=("to_shared",)
    )

    lines = report.render(msgspec.structs.replace(BOOTED, estimate=estimate)).splitlines()

    first = next(number for number, line in enumerate(lines) if line.startswith("Estimate"))
    assert lines[first : first + 2] == [
        "Estimate    0.50 to 1.00 s of tdx hardware for 100 accepted; not counted: to_shared",
        "            (an estimate from public measurements, which result.json cites)",
    ]


@pytest.mark.fault("U4")
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("never saw 'login' on the console: it ended", "is --expect right?"),
        ("the guest powered off before its command had ended", "/cvmlab/agent"),
        ("the guest's command could not run: there is no /share", None),
        ("the guest did not panic", None),
    ],
)
def test_advice_about_expect_is_given_where_it_was_expected(
    message: str, expected: str | None
) -> None:
    made = changed(outcome=Outcome.MARKER_NOT_SEEN, exit_code=83, message=message)
    told = report.advice(made)
    assert (told is None) if expected is None else (expected in str(told))
