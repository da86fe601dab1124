# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules as compiled: the same as loaded, and held to the same vectors."""

import subprocess
import sys
from pathlib import Path

import pytest

from cvmlab.base.resources import plugin_dir
from cvmlab.memory.states import Change, Layout, RefusalCode, RefusedChange, profiles
from tests.plugin.conftest import MakeCore
from tests.plugin.core import Library
from tests.vectors.bad_rules import BAD_RULES, DEFAULT, PROFILE
from tests.vectors.reader import Vector, transition_vectors


GENERATOR = plugin_dir() / "core" / "gen-transitions.py"


def generate(*arguments: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, (GENERATOR, *arguments))]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_compiled_rules_are_those_that_python_loads(library: Library) -> None:
    for name, rules in profiles().items():
        assert library.cells(name) == rules.cells
    compiled = {found.name.decode(): found.split for found in library.profiles()}
    assert compiled == {name: r.layout is Layout.SPLIT for name, r in profiles().items()}
    scrambling = {found.name.decode(): found.scrambles for found in library.profiles()}
    assert scrambling == {name: r.scrambles for name, r in profiles().items()}


def test_a_profile_nobody_wrote_is_not_found(library: Library) -> None:
    assert not library.c.rmem_profile_find(b"enclave")
    assert not library.c.rmem_profile_at(len(profiles()))


@pytest.mark.parametrize("vector", transition_vectors(), ids=lambda vector: vector.name)
def test_the_core_does_what_each_vector_says(make_core: MakeCore, vector: Vector) -> None:
    core = make_core(vector.profile, 3)
    core.table[1] = vector.state
    answer = core.apply(1, 1, vector.event)
    if vector.refusal is RefusalCode.OK:
        assert answer == (Change(1, 1, vector.state, vector.after),)
    else:
        assert answer == RefusedChange(vector.refusal, 1)
    assert core.state(1) is vector.after
    assert core.counters == vector.counters
    assert core.header["generation"] == vector.takes_access
    assert (core.state(0), core.state(2)) == (0, 0)


@pytest.mark.parametrize("vector", transition_vectors(), ids=lambda vector: vector.name)
def test_a_single_page_step_does_what_each_vector_says(make_core: MakeCore, vector: Vector) -> None:
    core = make_core(vector.profile, 3)
    core.table[1] = vector.state
    assert core.apply_page(1, vector.event) == (vector.refusal, vector.state)
    assert core.state(1) is vector.after
    assert core.counters == vector.counters
    assert core.header["generation"] == vector.takes_access
    assert (core.state(0), core.state(2)) == (0, 0)


@pytest.mark.parametrize(("text", "message"), BAD_RULES)
def test_the_generator_refuses_what_is_no_rule(tmp_path: Path, text: str, message: str) -> None:
    rules = tmp_path / "transitions.toml"
    rules.write_text(text, encoding="utf-8")
    result = generate(rules)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"gen-transitions.py: {rules}: {message}\n"


def test_the_generator_takes_a_profile_without_rows_of_its_own(tmp_path: Path) -> None:
    rules = tmp_path / "transitions.toml"
    rules.write_text(DEFAULT + PROFILE, encoding="utf-8")
    result = generate(rules)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("[RMEM_PENDING] = ") == 7


def test_the_generator_says_how_it_is_used(tmp_path: Path) -> None:
    assert generate().stderr.startswith("usage: gen-transitions.py")
    assert generate(tmp_path / "absent.toml").returncode == 1
