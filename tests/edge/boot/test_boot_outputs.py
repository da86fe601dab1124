# SPDX-License-Identifier: GPL-2.0-or-later
"""What a boot leaves for people and programs: each output is whole, and fit for a terminal."""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cvmlab.cli import main
from cvmlab.results import result
from cvmlab.results.result import Result
from tests.fakes.plan import Plan


Steps = Sequence[dict[str, Any]]
HELLO: Steps = (
    {"phase": 1},
    {"touch": [16, 100]},
    {"phase": 3},
    {"agent": "cvmlab hello 6.12.1\n"},
)
OFF: Steps = ({"shutdown": "guest-shutdown"},)
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Left:
    """Everything that a boot wrote."""

    status: int
    out: str
    err: str
    result: Result
    junit: str
    html: str
    folder: Path


Boot = Callable[..., Left]


@pytest.fixture
def boot(tmp_path: Path, elf: Path, capsys: pytest.CaptureFixture[str]) -> Boot:
    def start(line: str, steps: Steps) -> Left:
        qemu = Plan(boot=tuple(steps)).install(tmp_path / "fake")
        made = {name: tmp_path / f"made.{name}" for name in ("json", "junit", "html")}
        fixed = f"boot -k {elf} --memory 64M --qemu {qemu} --progress none --run-dir {tmp_path}/run"
        for name, path in made.items():
            fixed += f" --{name} {path}"
        status = main(shlex.split(f"{fixed} {line}"))
        out, err = capsys.readouterr()
        found = result.from_json(made["json"].read_bytes())
        return Left(
            status, out, err, found, made["junit"].read_text(), made["html"].read_text(),
            tmp_path / "run",
        )  # fmt: skip

    return start


@pytest.mark.fault("V11")
@pytest.mark.parametrize("options", ["", "-v"])
def test_no_byte_of_the_guest_reaches_a_terminal_raw(boot: Boot, options: str) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07\x9b31m\x1b[?1049h"
    steps = (
        *HELLO,
        {"console": f"{evil}hello\n"},
        {"agent": f"cvmlab output 12\n{evil}said\ncvmlab end 12\ncvmlab problem {evil}bad\n"},
        {"log": f"qemu: {evil}"},
        {"console": f"[    1.000000] Kernel panic - not syncing: {evil}VFS\n{evil}"},
        {"shutdown": "guest-reset"},
    )
    left = boot(f"--expect never {options}", steps)

    assert left.status == 255
    texts = (left.out, left.err, left.junit, left.html, result.to_json(left.result))
    for text in texts:
        assert not OBEYED.search(text)
        assert "owned" not in text
    assert "VFS" in left.result.message
    assert "\x1b[2J" in (left.folder / "console.log").read_text("latin-1")


@pytest.mark.fault("V11")
def test_trouble_in_the_kernel_is_told_without_its_escapes(boot: Boot) -> None:
    line = "[    1.000000] BUG: \x1b[2Jbad\x07 page\x9b31m\n"
    left = boot("", (*HELLO, {"console": line}, *OFF))

    assert left.status != 0
    assert "bad\\x07 page" in left.result.message
    for text in (left.out, left.err, left.junit, left.html, result.to_json(left.result)):
        assert not OBEYED.search(text)


@pytest.mark.fault("V13")
def test_what_a_command_prints_is_shown_and_kept(boot: Boot) -> None:
    output = "first\nsecond, without an end"
    steps = (
        *HELLO,
        {"console": "[    1.0] a kernel message\n"},
        {"agent": "cvmlab output 1f-2e\n"},
        {"agent": output},
        {"agent": "cvmlab end 1f-2e\ncvmlab exit 0\n"},
        *OFF,
    )
    left = boot("", steps)

    assert left.status == 0
    assert left.result.output == output
    assert "Output of the guest's command\n    first\n    second, without an end\n" in left.out
    assert (left.folder / "exec.log").read_text() == output
    assert "second, without an end\n" in (left.folder / "console.log").read_text()
    assert "second, without an end" in left.html


@pytest.mark.fault("V13")
def test_an_output_that_looks_like_the_agents_own_lines_is_output(boot: Boot) -> None:
    output = "cvmlab exit 9\ncvmlab end 0\ncvmlab hello 1.0\n"
    said = f"cvmlab output 77\n{output}cvmlab end 77\ncvmlab exit 0\n"
    left = boot("", (*HELLO, {"agent": said}, *OFF))

    assert (left.status, left.result.output) == (0, output)
    assert left.result.kernel == "6.12.1"


@pytest.mark.fault("V13")
def test_the_end_of_a_long_output_is_kept(boot: Boot) -> None:
    said = "x" * 79 + "\n"
    steps = ({"agent": said * 512},) * 4
    all_of_it = ({"agent": "cvmlab output 1\n"}, *steps, {"agent": "cvmlab end 1\ncvmlab exit 0\n"})
    left = boot("", (*HELLO, *all_of_it, *OFF))

    assert left.result.output is not None
    assert left.result.output.startswith("(98304 bytes before this are left out)\nxxx")
    assert (left.folder / "exec.log").stat().st_size == 4 * 512 * 80


@pytest.mark.fault("V8")
def test_advice_budgets_and_console_are_in_every_output(boot: Boot) -> None:
    steps = (*HELLO, {"console": "the last line\n"}, {"host_fault": 0x5000}, *OFF)
    left = boot("--max-faults 0 --max-accepts 500", steps)

    assert left.status == 81
    hint = left.result.hint
    assert hint is not None
    assert f"advice: {hint}" in left.out
    assert hint in left.junit
    assert f"advice: {hint}" in left.html
    assert "the last line" in left.out
    assert "the last line" in left.html
    for budget in ("1 host fault, 0 are allowed: BROKEN", "500 are allowed: kept"):
        assert budget in left.out
        assert budget in left.html


@pytest.mark.fault("V8")
def test_a_good_boot_has_no_advice(boot: Boot) -> None:
    left = boot("", (*HELLO, *OFF))
    assert (left.status, left.result.hint) == (0, None)
    assert "advice:" not in left.html


@pytest.mark.fault("U3", "U4")
def test_why_a_command_could_not_run_is_the_verdict(boot: Boot) -> None:
    steps = (*HELLO, {"agent": "cvmlab problem the shared folder is gone\n"}, *OFF)
    left = boot("", steps)

    assert left.status == 83
    assert left.result.message == "the guest's command could not run: the shared folder is gone"
    assert "--expect" not in str(left.result.hint)
