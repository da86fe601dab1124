# SPDX-License-Identifier: GPL-2.0-or-later
"""What --help and `cvmlab help` show, and that their tables are the ones the code goes by."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cvmlab.base import environment
from cvmlab.cli import app, main
from cvmlab.machine.option import Form, Group
from cvmlab.machine.option_rows import having
from cvmlab.results.exit_codes import MEANINGS, table
from cvmlab.results.result import EXIT_CODES, Outcome


ROOT = Path(__file__).resolve().parents[3]
# `<path>` and the like: Python's types.  PATH and TEXT: typer's words where a command gives none.
LEFTOVERS = re.compile(r"<[a-z]|list\[|\b(PATH|TEXT|INTEGER|FLOAT)\b|\[\[|\{")


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command and group."""
    command = command or typer.main.get_command(app)
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_help_has_words_that_people_know_and_fits(
    words: tuple[str, ...],
    width: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main([*words, "--help"]) == 0
    shown = capsys.readouterr().out

    assert LEFTOVERS.search(shown) is None
    assert max(map(len, shown.splitlines())) <= width
    assert main(["help", *words]) == 0
    assert capsys.readouterr().out == shown


def test_the_options_of_boot_are_in_their_sections(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boot", "--help"]) == 0
    headings = "|".join(re.escape(f"{group}:") for group in [*Group, "Options"])
    parts = re.split(rf"^({headings})$", capsys.readouterr().out, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))

    assert list(sections) == [f"{group}:" for group in Group] + ["Options:"]
    for option in having(Form.COMMAND):
        if not option.is_argument:
            line = rf"^  (-\w, )?{option.label}( {re.escape(option.metavar)})?( |$)"
            assert re.search(line, sections[f"{option.group}:"], re.MULTILINE), option.name
            assert option.is_switch == (option.metavar == ""), option.name


@pytest.mark.fault("U10")
def test_a_matrix_shows_its_options_without_a_further_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["matrix", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("FILE", "--shard I/N", "--run-dir DIR", "merge"))


def test_help_of_the_tests_runs_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: cvmlab test")


def test_every_exit_code_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(MEANINGS) == set(Outcome) == {*EXIT_CODES, Outcome.GUEST_FAILED}
    assert main(["help", "exit-codes"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[2:]]
    assert lines == [[code, meaning] for code, meaning in table()]
    codes = [int(code.partition("-")[0]) for code, _ in table()]
    assert codes == sorted({*EXIT_CODES.values(), 1})


def test_every_environment_variable_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "environment"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for variable in environment.VARIABLES for name in variable.names)
    assert environment.markdown() in (ROOT / "control" / "README.md").read_text(encoding="utf-8")


def test_the_code_reads_no_variable_that_is_not_in_the_table() -> None:
    """A name in the table that nothing reads is as wrong."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=30,
    ).stdout  # fmt: skip
    found: set[bytes] = set()
    for path in (ROOT / name for name in listed.split("\0") if name):
        own = path.name in ("environment.py", "README.md") or path == Path(__file__)
        if path.is_file() and not path.is_symlink() and not own:
            found |= set(re.findall(rb"\bCVMLAB_[A-Z0-9_]*[A-Z0-9]\b", path.read_bytes()))
    known = {name for variable in environment.VARIABLES for name in variable.names}
    assert {name.decode() for name in found} == {name for name in known if name[:7] == "CVMLAB_"}


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("help boto", "help: there is no 'boto'", "did you mean boot?"),
        ("help exit-code", "help: there is no 'exit-code'", "did you mean exit-codes?"),
        ("help boot now", "cvmlab boot has no command 'now'", "see `cvmlab boot --help`"),
    ],
)
def test_a_topic_that_is_not_there_is_told(
    capsys: pytest.CaptureFixture[str], line: str, message: str, hint: str
) -> None:
    assert main(line.split()) == 85
    first, second = capsys.readouterr().err.splitlines()
    assert (first, second[: len(hint) + 6]) == (f"cvmlab: {message}", f"hint: {hint}")
