# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts of earlier boots, and what is said when a later one takes more."""

import json
from pathlib import Path

import msgspec
import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.cli import main
from cvmlab.results import baselines, result
from cvmlab.results.baselines import Baselines, Tolerance
from cvmlab.results.counts import Counters, PhaseCounters
from cvmlab.results.result import FunctionCount, Outcome, PhaseResult, Result


KEY = "debian/tdx/ovmf/2cpus/1G"


def booted(
    *phases: tuple[str, dict[str, int]], functions: tuple[FunctionCount, ...] = ()
) -> Result:
    return Result(
        cvmlab="0", outcome=Outcome.OK, exit_code=0, message="it booted", guest="debian",
        coco="tdx", firmware="ovmf", memory_bytes=1 << 30, cpus=2, started="now", duration=1.0,
        phases=tuple(
            PhaseResult(name=name, seconds=1, host_seconds=1, counters=PhaseCounters(**counters))
            for name, counters in phases
        ),
        functions=functions,
    )  # fmt: skip


def shared(symbol: str, pages: int) -> FunctionCount:
    return FunctionCount(phase="kernel", change="to_shared", symbol=symbol, pages=pages, requests=1)


BEFORE = booted(
    ("firmware", {"accepted": 1000}),
    ("kernel", {"to_shared": 200, "host_faults": 2}),
    functions=(shared("dma_alloc", 150), shared("swiotlb", 50)),
)


def told(later: Result, tolerance: Tolerance | None = None) -> list[str]:
    known = baselines.updated(Baselines(), [BEFORE])
    return list(baselines.regressions(known.boots[KEY], tolerance or known.tolerance, later))


def test_as_much_as_before_is_no_regression_and_less_is_none() -> None:
    assert told(BEFORE) == []
    assert told(booted(("firmware", {"accepted": 1}))) == []


@pytest.mark.parametrize(
    ("counters", "sentences"),
    [
        ({"accepted": 1100}, []),
        (
            {"accepted": 1101},
            ["1101 accepted pages in phase firmware: the baseline is 1000, 1100 are allowed"],
        ),
        ({"to_private": 64}, []),
        (
            {"to_private": 65},
            ["65 pages converted to private in phase firmware: the baseline is 0, 64 are allowed"],
        ),
        ({"host_faults": 1}, ["1 host fault in phase firmware: the baseline is 0, 0 are allowed"]),
    ],
)
def test_more_than_the_tolerance_is_a_regression(
    counters: dict[str, int], sentences: list[str]
) -> None:
    assert told(booted(("firmware", counters))) == sentences


def test_the_functions_that_grew_are_named() -> None:
    later = booted(
        ("kernel", {"to_shared": 200}), ("kernel", {"to_shared": 100}),
        functions=(shared("dma_alloc", 160), shared("swiotlb", 40), shared("fresh", 100)),
    )  # fmt: skip

    assert told(later) == [
        "300 pages converted to shared in phase kernel: the baseline is 200, 264 are allowed; "
        "100 more in fresh, 10 more in dma_alloc"
    ]
    assert told(later, Tolerance(percent=50)) == []


def test_of_several_boots_alike_the_most_is_taken_over() -> None:
    other = booted(("firmware", {"accepted": 1500}), ("user", {"accepted": 3}))

    entry = baselines.updated(Baselines(), [BEFORE, other]).boots[KEY]

    assert (entry.phases["firmware"].accepted, entry.phases["user"].accepted) == (1500, 3)
    assert entry.phases["kernel"].to_shared == 200
    assert entry.functions["kernel"]["to_shared"] == {"dma_alloc": 150, "swiotlb": 50}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"outcome": Outcome.TIMEOUT, "message": "late"},
            "a boot that failed cannot be a baseline: late",
        ),
        (
            {"counters": Counters(events_dropped=7)},
            "7 events were dropped: counts by phase are too low",
        ),
    ],
)
def test_what_cannot_be_trusted_is_not_taken_over(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        baselines.updated(Baselines(), [msgspec.structs.replace(BEFORE, **changes)])
    assert (caught.value.message, caught.value.hint is not None) == (message, True)


def written(path: Path, document: Result) -> str:
    path.write_text(result.to_json(document))
    return str(path)


def test_the_commands_update_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, good = str(tmp_path / "base.json"), written(tmp_path / "good.json", BEFORE)
    worse = written(tmp_path / "worse.json", booted(("firmware", {"accepted": 5000})))

    assert main(["baseline", "check", file, good]) == 85
    assert f"`cvmlab baseline update {file} RESULT.json` makes it" in capsys.readouterr().err
    assert main(["baseline", "update", file, good, "--percent", "20"]) == 0
    assert main(["baseline", "check", file, good]) == 0
    assert main(["baseline", "check", file, good, worse]) == 80
    out, err = capsys.readouterr()
    assert f"{KEY}: exceeds its baseline" in out
    assert "5000 accepted pages in phase firmware: the baseline is 1000, 1200 are allowed" in err
    other = written(tmp_path / "other.json", msgspec.structs.replace(BEFORE, cpus=1))
    assert main(["baseline", "check", file, other]) == 85
    assert f"{file} has no baseline for debian/tdx/ovmf/1cpu/1G" in capsys.readouterr().err


def test_a_file_may_be_toml_and_a_wrong_key_in_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = written(tmp_path / "good.json", BEFORE)
    toml = tmp_path / "base.toml"
    toml.write_text(
        f'[tolerance]\npercent = 0\npages = 0\n[boots."{KEY}".phases]\n'
        "firmware = { accepted = 1000 }\nkernel = { to_shared = 199, host_faults = 2 }\n"
    )

    assert main(["baseline", "check", str(toml), good]) == 80
    assert "200 pages converted to shared" in capsys.readouterr().err
    assert main(["baseline", "update", str(toml), good]) == 85
    toml.write_text(f'[boots."{KEY}".phases]\nfirmware = {{ acceptd = 1 }}\n')
    assert main(["baseline", "check", str(toml), good]) == 85
    err = capsys.readouterr().err
    assert f"base.toml: boots.{KEY}.phases.firmware: there is no 'acceptd'" in err
    assert "did you mean accepted?" in err


def test_the_file_is_sorted_text() -> None:
    text = baselines.to_json(baselines.updated(Baselines(), [BEFORE]))

    assert list(json.loads(text)) == ["boots", "tolerance"]
    assert baselines.parse(json.loads(text), "b") == baselines.updated(Baselines(), [BEFORE])


@pytest.mark.fault("U9")
def test_boots_of_other_options_are_not_compared_with_each_other() -> None:
    plain = baselines.key_of(BEFORE)
    other = baselines.key_of(msgspec.structs.replace(BEFORE, variant=("exec=true", "net=user")))
    assert (plain, other) == (KEY, f"{KEY}/exec=true,net=user")
