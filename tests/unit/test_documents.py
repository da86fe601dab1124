# SPDX-License-Identifier: GPL-2.0-or-later
"""The documents: links lead somewhere, and the commands that are shown have these options."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cvmlab.cli import app


ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PROGRAMS = {"cvmlab", "./cvmlab"}
# What a shell puts between two commands.
SEPARATORS = {"&&", "&", ";", "|"}


def documents() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def anchor(heading: str) -> str:
    """Return what a Markdown page calls the place of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    return {anchor(found) for found in re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)}


def broken_links(path: Path) -> Iterator[str]:
    for link in LINK.findall(path.read_text()):
        name, _, place = link.partition("#")
        target = path.parent / name if name else path
        if "://" in link:
            continue
        if not target.exists() or (place and place not in anchors(target)):
            yield link


def shown_commands(text: str) -> Iterator[list[str]]:
    """Return the words behind each ``cvmlab`` in the shell blocks of a document."""
    for kind, block in re.findall(r"^```(console|sh)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        prompt = "$ " if kind == "console" else ""
        for line in block.replace("\\\n", " ").splitlines():
            if not line.startswith(tuple(f"{prompt}{program} " for program in PROGRAMS)):
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            end = next((at for at, word in enumerate(words) if word in SEPARATORS), len(words))
            yield words[1:end]


def unknown_words(words: list[str]) -> list[str]:
    """Return the command or the options among *words* that do not exist."""
    command: Any = typer.main.get_command(app)
    if words[:1] == ["test"]:
        return []  # the rest goes to tox
    while words and words[0] in (commands := getattr(command, "commands", {})):
        command, words = commands[words[0]], words[1:]
    if words and not words[0].startswith("-") and (commands := getattr(command, "commands", {})):
        if "run" not in commands:
            return words[:1]
        command = commands["run"]  # `cvmlab matrix FILE` is `cvmlab matrix run FILE`
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    own = words[: words.index("--")] if "--" in words else words
    if command.context_settings.get("allow_interspersed_args") is False:
        own = list(takewhile(lambda word: word.startswith("-"), own))  # the rest is a debugger's
    return [word for word in own if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known]


@pytest.mark.parametrize("name", documents())
def test_links_lead_somewhere(name: str) -> None:
    assert list(broken_links(ROOT / name)) == []


@pytest.mark.parametrize("name", documents())
def test_shown_commands_and_options_exist(name: str) -> None:
    shown = list(shown_commands((ROOT / name).read_text()))
    assert [(words, unknown_words(words)) for words in shown if unknown_words(words)] == []


def test_the_readme_says_where_to_look_for_each_package() -> None:
    places = re.findall(r"`((?:control|guest-images)/[\w/-]*)`", README)
    assert [place for place in places if not (ROOT / place).is_dir()] == []
    packages = {path.parent.name for path in (ROOT / "control" / "cvmlab").glob("*/__init__.py")}
    assert packages - {Path(place).name for place in places} == {"base"}


def test_an_unknown_command_or_option_is_noticed() -> None:
    assert unknown_words(["bot", "debian"]) == ["bot"]
    assert unknown_words(["boot", "--exec", "ls", "--jnit", "x"]) == ["--jnit"]
    assert unknown_words(["matrix", "x.toml", "--shards", "1/2"]) == ["--shards"]
    assert unknown_words(["matrix", "merge", "a", "--junit", "b"]) == []


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A thing: done\n[a](#a-thing-done) [b](#b) [c](c.md) [d](page.md)\n")
    assert list(broken_links(page)) == ["#b", "c.md"]
