# SPDX-License-Identifier: GPL-2.0-or-later
"""Make or update the checkout's virtual environment.  Called by ./cvmlab, by file name:

    python3 -I control/cvmlab/bootstrap.py CHECKOUT VENV [EXTRA]

It runs on a bare Python, before any dependency is installed, so it and all its imports use the
standard library only (tests/edge/test_launcher.py checks that).

Last, it writes to VENV/stamp what the environment was made from: ``root`` (the checkout and the
chosen interpreter), ``pyproject.toml`` (a copy), and a copy per extra.  The launcher compares
these; an unfinished environment has no stamp and is made again.
"""

import fcntl
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


# Isolated mode (-I) omits the script's folder from the path; an import as a module does not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cvmlab.base.errors import ConfigError, CvmError
from cvmlab.base.progress import Part, Style, Task, task
from cvmlab.base.steps import Steps
from cvmlab.debian.apt import Need, ensure


_PHASES = (Part("making the virtual environment", 5.0), Part("installing packages", 25.0))
_VENV_DEADLINE_S = 120.0
_PIP_DEADLINE_S = 900.0
_EXPECTED_PACKAGES = 25


def main(argv: list[str]) -> int:
    """Make the environment; return 0, or print why not and return the error's exit code."""
    try:
        root, venv = Path(argv[0]), Path(argv[1])
        _make(root, venv, extra=argv[2] if len(argv) > 2 else "")
    except CvmError as error:
        sys.stderr.write(f"cvmlab: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def is_current(root: Path, venv: Path, extra: str) -> bool:
    """Return whether ``venv`` was made from this checkout, interpreter and pyproject.toml."""
    stamp = venv / "stamp"
    wanted = (root / "pyproject.toml").read_bytes()
    files = [stamp / "pyproject.toml", *([stamp / f"{extra}.toml"] if extra else [])]
    return _is_usable(root, venv) and all(
        file.is_file() and file.read_bytes() == wanted for file in files
    )


def _is_usable(root: Path, venv: Path) -> bool:
    """Return whether ``venv`` can be updated in place: same checkout, interpreter still there."""
    made_for = venv / "stamp" / "root"
    if not made_for.is_file() or not os.access(venv / "bin" / "python", os.X_OK):
        return False
    return made_for.read_text(encoding="utf-8") == _made_for(root)


def _made_for(root: Path) -> str:
    return f"{root}:{os.environ.get('CVMLAB_PYTHON', '')}\n"


def _make(root: Path, venv: Path, *, extra: str) -> None:
    with _lock(venv):
        if is_current(root, venv, extra):  # another process was faster
            return
        if importlib.util.find_spec("ensurepip") is None:
            ensure([Need.ENVIRONMENT])
        with task("cvmlab", _PHASES, style=Style.AUTO, stream=sys.stderr) as running:
            _populate(root, venv, extra, running)
        _write_stamp(root, venv, extra)


def _populate(root: Path, venv: Path, extra: str, running: Task) -> None:
    steps = Steps(log=venv.with_name(f"{venv.name}.log"), tick=running.tick)
    steps.log.unlink(missing_ok=True)
    running.enter(_PHASES[0].name)
    if not _is_usable(root, venv):
        # The resolved name (python3.11, not python3): if the distribution replaces that
        # interpreter, the environment is seen to be broken instead of empty.
        python = os.path.realpath(sys.executable)
        steps.run(
            [python, "-I", "-m", "venv", "--clear", venv],
            what="making a virtual environment",
            deadline_s=_VENV_DEADLINE_S,
        )
    running.enter(_PHASES[1].name)
    collected = 0

    def on_line(line: str) -> None:
        nonlocal collected
        if line.startswith("Collecting "):
            collected += 1
            running.advance(min(collected / _EXPECTED_PACKAGES, 0.8))

    project = f"{root}[{extra}]" if extra else str(root)
    pip = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    steps.run(
        [venv / "bin" / "python", *pip, "--editable", project],
        what="pip install",
        deadline_s=_PIP_DEADLINE_S,
        on_line=on_line,
    )


def _write_stamp(root: Path, venv: Path, extra: str) -> None:
    stamp = venv / "stamp"
    stamp.mkdir(exist_ok=True)
    (stamp / "root").write_text(_made_for(root), encoding="utf-8")
    for name in ("pyproject", *([extra] if extra else [])):
        shutil.copyfile(root / "pyproject.toml", stamp / f"{name}.toml")


@contextmanager
def _lock(venv: Path) -> Iterator[None]:
    try:
        venv.parent.mkdir(parents=True, exist_ok=True)
        lock = venv.with_name(f"{venv.name}.lock").open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {error.filename}: {error.strerror}",
            hint="set CVMLAB_VENV to a folder that can be written",
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
