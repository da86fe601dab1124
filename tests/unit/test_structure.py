# SPDX-License-Identifier: GPL-2.0-or-later
"""What the repository is held to as a whole."""

import ast
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cvmlab.cli import app


ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "control" / "cvmlab"
LAYERS: list[dict[str, Any]] = tomllib.loads((ROOT / "tests" / "layers.toml").read_text())["layer"]
# What only the edges may use; a layer says in layers.toml that it is pure.
IMPURE_MODULES = {"asyncio", "multiprocessing", "socket", "subprocess", "threading", "time"}

MAX_LINES = 400
MAX_LINES_WITH_REASON = 600
MAX_FUNCTION_LINES = 40  # without signature and docstring
# On one of the first lines, followed by the reason.
LONG_MARK = "Longer than 400 lines:"

# Written in pieces, so that this file does not contain what it forbids.
FORBIDDEN = (
    "deb." + "debian.org",
    "security." + "debian.org",
    "snapshot." + "debian.org",
    "archive." + "ubuntu.com",
    "pypi." + "org",
    "files.python" + "hosted.org",
    "proxy.golang" + ".org",
    "../sha" + "red",
    "/ro" + "ot/",
    "/wo" + "rk/",
)
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")


def tracked() -> list[Path]:
    """Return the files git knows, those new and not ignored among them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


@cache
def text_files() -> list[tuple[Path, str]]:
    """Return the tracked files that are text, but for the licence."""
    contents = ((path.relative_to(ROOT), path.read_bytes()) for path in tracked())
    return [
        (path, content.decode())
        for path, content in contents
        if path.name != "LICENSE" and b"\0" not in content
    ]


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def layer_of(name: str) -> int | None:
    """Return the index of the layer of a module, named relative to the package."""
    top = name.partition(".")[0]
    return next((i for i, layer in enumerate(LAYERS) if top in layer["modules"]), None)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> list[tuple[int, str]]:
    """Return line and dotted name of everything imported, ``from x import y`` as ``x.y``."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found += ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
    return found


def test_every_module_has_a_layer() -> None:
    names = {module_name(path) for path in modules()} - {"__init__"}
    assert [name for name in sorted(names) if layer_of(name) is None] == []


def test_every_layer_names_modules_that_exist() -> None:
    tops = {module_name(path).partition(".")[0] for path in modules()}
    assert {name for layer in LAYERS for name in layer["modules"]} - tops == set()


def test_imports_point_one_way() -> None:
    wrong = []
    for path in modules():
        own = layer_of(module_name(path))
        for line, name in imports(path):
            other = layer_of(name.removeprefix("cvmlab.")) if name.startswith("cvmlab.") else None
            if own is not None and other is not None and other > own:
                wrong.append(f"{path.name}:{line} imports {name}")
    assert wrong == []


def test_only_the_edges_touch_sockets_processes_and_clocks() -> None:
    pure = {name for layer in LAYERS if layer["pure"] for name in layer["modules"]}
    wrong = [
        f"{path.name}:{line} imports {name}"
        for path in modules()
        if module_name(path) in pure
        for line, name in imports(path)
        if name.partition(".")[0] in IMPURE_MODULES
    ]
    assert wrong == []


def test_one_module_speaks_to_qemu_qmp() -> None:
    users = {
        module_name(path) for path in modules() for _, name in imports(path) if name[:5] == "qemu."
    }
    assert users <= {"qmp"}


def test_files_are_short_or_say_why_not() -> None:
    wrong = []
    for path, text in text_files():
        if path.suffix not in {".py", ".c", ".h"}:
            continue
        lines = text.splitlines()
        has_reason = any(LONG_MARK in line for line in lines[:5])
        limit = MAX_LINES_WITH_REASON if has_reason else MAX_LINES
        if len(lines) > limit:
            wrong.append(f"{path}: {len(lines)} lines, at most {limit}")
    assert wrong == []


def test_functions_are_short() -> None:
    wrong = []
    for path in modules():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                if lines > MAX_FUNCTION_LINES:
                    wrong.append(f"{path.name}:{node.lineno} {node.name} has {lines} lines")
    assert wrong == []


@pytest.mark.parametrize("word", FORBIDDEN)
def test_no_registry_and_no_private_path_is_named(word: str) -> None:
    assert [str(path) for path, text in text_files() if word in text] == []


def test_nothing_is_left_unfinished() -> None:
    found = [str(path) for path, text in text_files() if UNFINISHED.search(text)]
    assert found == []


def test_sources_name_their_licence() -> None:
    wrong = []
    for path, text in text_files():
        head = text.splitlines()[:6]
        licensed = any("SPDX-License-Identifier: GPL-2.0-or-later" in line for line in head)
        is_source = path.suffix in {".py", ".c", ".h", ".S"} and len(head) > 1  # one line forwards
        if is_source and not licensed:
            wrong.append(str(path))
    assert wrong == []


def test_no_binary_is_in_the_repository() -> None:
    """Pictures of the documentation are the exception; tests take them."""
    binaries = [path.relative_to(ROOT) for path in tracked() if b"\0" in path.read_bytes()]
    assert [str(path) for path in binaries if not path.match("docs/*.png")] == []


def test_the_readme_shows_commands_that_exist() -> None:
    """tests/guest/test_readme.py runs them; this one needs no QEMU."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\$ \./cvmlab ([a-z]+)", text, re.MULTILINE))
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert shown - known == set()
    assert "boot" in shown
    assert "./cvmlab test" in text
