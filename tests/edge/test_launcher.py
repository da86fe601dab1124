# SPDX-License-Identifier: GPL-2.0-or-later
"""./cvmlab: makes the environment when it must, and only then."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from cvmlab import bootstrap
from cvmlab.base.paths import cache_dir
from cvmlab.cli import app


ROOT = Path(__file__).resolve().parents[2]
# Plays every interpreter: new enough, bootstraps by writing what bootstrap.py would, and then
# is the environment's python, which says what it was asked to run.
PYTHON = """#!/bin/sh
case "$1" in
-c) exit 0;;
-I) shift 2
    echo bootstrap "${3-}" >>"$1/log"
    mkdir -p "$2/bin" "$2/stamp"
    cp "$1/python" "$2/bin/python"
    echo "$1:${CVMLAB_PYTHON-}" >"$2/stamp/root"
    for stamp in pyproject $3; do cp "$1/pyproject.toml" "$2/stamp/$stamp.toml"; done;;
*)  echo "$*";;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the launcher, and an interpreter in it that pretends."""
    root = tmp_path / "a checkout"
    root.mkdir()
    shutil.copy(ROOT / "cvmlab", root / "cvmlab")
    shutil.copy(ROOT / "pyproject.toml", root / "pyproject.toml")
    (root / "python").write_text(PYTHON)
    (root / "python").chmod(0o755)
    monkeypatch.setenv("CVMLAB_PYTHON", os.fspath(root / "python"))
    monkeypatch.delenv("CVMLAB_VENV", raising=False)
    return root


def launch(root: Path, *arguments: str, cwd: Path = Path("/")) -> str:
    done = subprocess.run(
        [root / "cvmlab", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env=os.environ | {"HOME": ""},
    )
    return done.stdout.strip()


def bootstraps(root: Path) -> list[str]:
    log = root / "log"
    return log.read_text().splitlines() if log.exists() else []


def test_the_first_start_makes_the_environment_and_runs_the_command(checkout: Path) -> None:
    assert launch(checkout, "boot", "--dry-run", "a b") == "-P -m cvmlab boot --dry-run a b"
    assert len(bootstraps(checkout)) == 1


def test_the_second_start_makes_nothing(checkout: Path) -> None:
    for _ in range(2):
        launch(checkout, "ps")
    assert len(bootstraps(checkout)) == 1


def test_the_tests_need_more_once(checkout: Path) -> None:
    launch(checkout, "ps")
    for _ in range(2):
        assert launch(checkout, "test", "-e", "unit") == "-P -m cvmlab test -e unit"
    launch(checkout, "ps")
    assert [line.strip() for line in bootstraps(checkout)] == ["bootstrap", "bootstrap tox"]


@pytest.mark.parametrize("change", ["pyproject", "interpreter", "moved", "broken"])
def test_a_change_makes_the_environment_again(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    launch(checkout, "ps")
    match change:
        case "pyproject":
            with (checkout / "pyproject.toml").open("a") as file:
                file.write("# new\n")
        case "interpreter":
            shutil.copy(checkout / "python", checkout / "python3.99")
            monkeypatch.setenv("CVMLAB_PYTHON", os.fspath(checkout / "python3.99"))
        case "moved":
            checkout = checkout.rename(checkout.with_name("elsewhere"))
            monkeypatch.setenv("CVMLAB_PYTHON", os.fspath(checkout / "python"))
        case "broken":
            (checkout / ".venv" / "bin" / "python").unlink()
    launch(checkout, "ps")
    assert len(bootstraps(checkout)) == 2


def test_the_launcher_may_be_a_link_and_the_environment_elsewhere(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, venv = tmp_path / "link", tmp_path / "env"
    link.symlink_to(checkout / "cvmlab")
    monkeypatch.setenv("CVMLAB_VENV", os.fspath(venv))
    done = subprocess.run([link, "ps"], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "-P -m cvmlab ps\n"
    assert (venv / "bin" / "python").exists()
    assert not (checkout / ".venv").exists()


def test_an_old_python_is_refused_in_two_lines(checkout: Path) -> None:
    (checkout / "python").write_text("#!/bin/sh\nexit 1\n")
    done = subprocess.run(
        [checkout / "cvmlab", "boot"], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 85
    first, second = done.stderr.splitlines()
    assert first.startswith("cvmlab: needs Python 3.11 or later")
    assert second.startswith("hint: ")


def bare_machine(checkout: Path, folder: Path, *, apt: str) -> dict[str, str]:
    """Return the environment of root on a machine whose apt-get is *apt* and which has no Python."""
    launcher = checkout / "cvmlab"
    launcher.write_text(launcher.read_text().replace("/usr/bin/python3", "/none/python3"))
    folder.mkdir()
    for name in ("readlink", "cmp", "cp", "mkdir", "sh"):
        (folder / name).symlink_to(shutil.which(name) or name)
    for name, script in {"id": "echo 0", "apt-get": apt}.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return {"PATH": os.fspath(folder), "HOME": os.fspath(folder)}


def test_a_machine_without_python_gets_it(checkout: Path, tmp_path: Path) -> None:
    """Root on a bare Debian, as a container is."""
    python = checkout / "python"
    install = (
        f"echo \"$*\" >>{tmp_path}/asked; [ $2 = update ] || cp '{python}' {tmp_path}/bin/python3"
    )
    environment = bare_machine(checkout, tmp_path / "bin", apt=install)
    done = subprocess.run(
        [checkout / "cvmlab", "ps"], env=environment, capture_output=True, text=True, check=False,
        timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "-P -m cvmlab ps\n"), done.stderr
    assert done.stderr.splitlines()[0] == "cvmlab: installing python3"
    asked = (tmp_path / "asked").read_text()
    assert "install -y --no-install-recommends python3 python3-venv" in asked


@pytest.mark.parametrize("variable", ["CVMLAB_NO_INSTALL", "CVMLAB_OFFLINE"])
def test_nothing_is_installed_where_that_is_not_wanted(
    checkout: Path, tmp_path: Path, variable: str
) -> None:
    environment = bare_machine(checkout, tmp_path / "bin", apt=f"touch {tmp_path}/asked") | {
        variable: "1"
    }
    done = subprocess.run(
        [checkout / "cvmlab", "ps"], env=environment, capture_output=True, text=True, check=False,
        timeout=30,
    )  # fmt: skip
    assert (done.returncode, (tmp_path / "asked").exists()) == (85, False)
    assert done.stderr.splitlines()[-1].startswith("hint: ")


def test_bootstrap_needs_nothing_but_the_standard_library() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import cvmlab.bootstrap"
    command = [sys.executable, "-I", "-S", "-c", code, os.fspath(ROOT / "control")]
    subprocess.run(command, check=True, timeout=30)


def test_launcher_and_bootstrap_agree_on_what_is_current(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch(checkout, "test")
    venv = checkout / ".venv"
    assert bootstrap.is_current(checkout, venv, "")
    assert bootstrap.is_current(checkout, venv, "tox")
    assert not bootstrap.is_current(checkout, venv, "lint")
    (checkout / "pyproject.toml").write_text("[project]\n")
    assert not bootstrap.is_current(checkout, venv, "")
    monkeypatch.delenv("CVMLAB_PYTHON")
    assert not bootstrap.is_current(checkout, venv, "")


def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    status = bootstrap.main([os.fspath(ROOT), os.fspath(tmp_path / "file" / "venv")])
    assert status == 85
    first, second = capsys.readouterr().err.splitlines()
    assert "cannot write" in first
    assert "CVMLAB_VENV" in second


@pytest.mark.parametrize(
    ("configured", "expected"),
    [("/big/cache", "/big/cache/cvmlab"), ("relative", "/home/u/.cache/cvmlab"), ("", None)],
)
def test_the_cache_is_where_the_user_wants_it(
    monkeypatch: pytest.MonkeyPatch, configured: str, expected: str | None
) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.setenv("XDG_CACHE_HOME", configured)
    assert os.fspath(cache_dir()) == (expected or "/home/u/.cache/cvmlab")


@pytest.mark.parametrize(
    "words", [[], ["-e", "unit", "-q"], ["-e", "unit", "--", "tests/unit", "-k", "x", "--help"]]
)
def test_all_words_after_test_are_for_tox(words: list[str]) -> None:
    command = typer.main.get_command(app).commands["test"]  # type: ignore[attr-defined]
    assert command.make_context("test", list(words)).args == words


@pytest.mark.fault("U10")
@pytest.mark.parametrize("words", [["--help"], ["-h"], ["-e", "unit", "--help"], ["-h", "--", "x"]])
def test_help_about_the_tests_installs_nothing(checkout: Path, words: list[str]) -> None:
    assert launch(checkout, "test", *words) == " ".join(["-P -m cvmlab test", *words])
    assert [line.strip() for line in bootstraps(checkout)] == ["bootstrap"]
    command = typer.main.get_command(app).commands["test"]  # type: ignore[attr-defined]
    with pytest.raises(typer.Exit):
        command.make_context("test", list(words))
