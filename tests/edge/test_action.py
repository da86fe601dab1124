# SPDX-License-Identifier: GPL-2.0-or-later
"""What CI systems run: the scripts of the GitHub Action and of the GitLab job, as they are.

A runner is an environment, some files it reads afterwards, and a shell that stops at an error.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from cvmlab.cli import app


ROOT = Path(__file__).parents[2]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS: dict[str, dict[str, Any]] = {step["name"]: step for step in ACTION["runs"]["steps"]}
GITLAB: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "gitlab-ci.yml").read_text())
JOB: dict[str, Any] = GITLAB["confidential-boot"]
SCRIPTS = {
    **{name: step["run"] for name, step in STEPS.items() if "run" in step},
    "gitlab": "\n".join([*JOB["before_script"], *JOB["script"]]),
}

FAKE_BOOT = """#!/bin/bash
# Writes its words, one a line, and what `cvmlab boot` writes; ends with $STATUS.
printf '%s\\n' "$@" >>"$CALLS"
while [ $# -gt 0 ]; do
  case $1 in --json | --junit | --html) echo "$1" >"$2" ;; --run-dir) mkdir -p "$2" ;; esac
  shift
done
[ "${STATUS-0}" = 0 ] || echo "FAILED: 3 host faults, 0 are allowed (exit code $STATUS)"
exit "${STATUS-0}"
"""


@dataclass
class Runner:
    """A runner of GitHub's, as a step sees it."""

    folder: Path

    def __post_init__(self) -> None:
        for name in ("output", "summary", "path", "calls"):
            (self.folder / name).touch()
        bin_ = self.folder / "bin"
        bin_.mkdir()
        program = bin_ / "cvmlab"
        program.write_text(FAKE_BOOT)
        program.chmod(0o755)

    def run(self, step: str, **environment: str) -> subprocess.CompletedProcess[str]:
        folder = self.folder
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", SCRIPTS[step]],
            env={
                "PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder),
                "RUNNER_TEMP": str(folder), "GITHUB_OUTPUT": str(folder / "output"),
                "GITHUB_STEP_SUMMARY": str(folder / "summary"), "CALLS": str(folder / "calls"),
                "GITHUB_PATH": str(folder / "path"), "GITHUB_ACTION_PATH": str(ROOT),
                **environment,
            },
            cwd=folder, capture_output=True, text=True, timeout=100,
        )  # fmt: skip

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()

    @property
    def outputs(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.read("output").splitlines())


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def test_a_boot_that_succeeds_leaves_what_the_artifact_takes(runner: Runner) -> None:
    args = "--kernel\nmy kernel\n\n--exec\necho '$HOME'; true\n"
    done = runner.run("Boot", CVMLAB_ARGS=args)
    assert done.returncode == 0, done.stderr
    words = runner.read("calls").splitlines()
    # As they were written: no shell has looked at them.
    assert words[:5] == ["boot", "--kernel", "my kernel", "--exec", "echo '$HOME'; true"]
    folder = Path(runner.outputs["folder"])
    found = {path.name for path in folder.iterdir()}
    assert found == {"result.json", "junit.xml", "report.html", "report.txt", "run"}
    assert runner.outputs["exit-code"] == "0"
    assert "::error" not in done.stdout


def test_a_boot_that_fails_is_annotated_and_fails_the_step(runner: Runner) -> None:
    done = runner.run("Boot", CVMLAB_ARGS="debian", STATUS="81")
    assert done.returncode == 81
    assert runner.outputs["exit-code"] == "81"
    assert (
        "::error title=cvmlab::3 host faults, 0 are allowed (exit code 81)"
        in done.stdout.splitlines()
    )
    assert runner.read("summary").startswith("```\nFAILED: 3 host faults")
    assert Path(runner.outputs["folder"], "result.json").exists()


def test_no_args_boot_the_default_guest(runner: Runner) -> None:
    assert runner.run("Boot", CVMLAB_ARGS="").returncode == 0
    assert runner.read("calls").splitlines()[:2] == ["boot", "--json"]


PYTHON = f"""#!/bin/sh
echo "python $*" >>"$CALLS"
mkdir -p "$3/bin"
for name in pip cvmlab; do
  printf '#!/bin/sh\\necho "%s $*" >>"$CALLS"\\n' $name >"$3/bin/$name"
  chmod +x "$3/bin/$name"
done
exec {sys.executable} -c ''
"""


@pytest.mark.parametrize(("wheel", "installed"), [("", str(ROOT)), ("a b.whl", "a b.whl")])
def test_it_installs_what_it_was_given_or_its_own_source(
    runner: Runner, wheel: str, installed: str
) -> None:
    python = runner.folder / "bin" / "python3"
    python.write_text(PYTHON)
    python.chmod(0o755)
    done = runner.run("Install cvmlab", CVMLAB_WHEEL=wheel, CVMLAB_PYTHON="python3")
    assert done.returncode == 0, done.stderr
    venv = f"{runner.folder}/cvmlab-venv"
    assert runner.read("calls").splitlines() == [
        f"python -m venv {venv}",
        f"pip install --quiet {installed}",
        "cvmlab build",
    ]
    assert runner.read("path").strip() == f"{venv}/bin"


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_has_nothing_to_say(name: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(SCRIPTS[name])
    done = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), "--shell=bash", script],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_no_input_of_a_stranger_is_pasted_into_a_script() -> None:
    """``${{ }}`` in a script is a template that a branch name can break out of."""
    assert not [name for name, script in SCRIPTS.items() if "${{" in script]


def test_every_reference_names_something() -> None:
    text = (ROOT / "action.yml").read_text()
    for input_ in re.findall(r"inputs\.([\w-]+)", text):
        assert input_ in ACTION["inputs"]
    assert set(ACTION["inputs"]) == set(re.findall(r"inputs\.([\w-]+)", text))
    ids = {step.get("id") for step in STEPS.values()}
    for step, output in re.findall(r"steps\.([\w-]+)\.outputs\.([\w-]+)", text):
        assert step in ids
        assert f"{output}=" in SCRIPTS["Boot"]
    for step in STEPS.values():
        assert ("run" in step) == (step.get("shell") == "bash")
        assert "run" in step or re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])


@pytest.mark.parametrize("name", ["Boot", "gitlab"])
def test_the_options_that_are_used_exist(name: str) -> None:
    boot = typer.main.get_command(app).commands["boot"]  # type: ignore[attr-defined]
    known = {option for param in boot.params for option in param.opts}
    call = SCRIPTS[name].partition("cvmlab boot")[2].partition(">")[0]
    used = set(re.findall(r"--[a-z][a-z-]*", call))
    assert used
    assert used <= known


def test_the_gitlab_job_keeps_its_results_whatever_happens(runner: Runner) -> None:
    script = " && ".join(JOB["script"]).replace("/opt/cvmlab/bin/", "")
    done = subprocess.run(
        ["bash", "-ec", script],
        env={"PATH": f"{runner.folder}/bin:{os.environ['PATH']}", "STATUS": "80",
             "CALLS": str(runner.folder / "calls")},
        cwd=runner.folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 80
    assert (runner.folder / JOB["artifacts"]["reports"]["junit"]).exists()
    assert JOB["artifacts"]["when"] == "always"
    words = runner.read("calls").splitlines()
    assert words[words.index("--exec") + 1] == "./selftest"
