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
from tests.imports import (
    IMPURE_MODULES,
    PACKAGE,
    cycle,
    graph,
    imports,
    module_name,
    modules,
    package_of,
    tree_of,
)


ROOT = Path(__file__).resolve().parents[2]
LAYERS: dict[str, dict[str, Any]] = {
    package["name"]: package
    for package in tomllib.loads((ROOT / "tests" / "layers.toml").read_text())["package"]
}
MAX_FILES_AT_THE_TOP = 6
MAX_MODULES = 20
NAMES_THAT_SAY_NOTHING = {
    "common", "feed", "helpers", "made", "marks", "misc", "seed", "share", "tools", "util", "utils",
    "wires",
}  # fmt: skip

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


def of_package(package: Path) -> list[Path]:
    return [path for path in sorted(package.glob("*.py")) if path.name != "__init__.py"]


def packages() -> list[Path]:
    return sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)


def test_layers_names_each_package_once() -> None:
    tops = {path.name for path in packages() if path.parent == PACKAGE}
    assert sorted(LAYERS) == sorted(tops)


def test_the_package_is_made_of_packages() -> None:
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= MAX_FILES_AT_THE_TOP


def test_each_package_says_in_one_line_what_is_in_it() -> None:
    first = {path: ast.get_docstring(tree_of(path / "__init__.py")) for path in packages()}
    assert [str(path) for path, text in first.items() if not text or "\n" in text] == []


def test_no_package_is_crowded() -> None:
    assert [str(path) for path in packages() if len(of_package(path)) > MAX_MODULES] == []


def test_imports_point_one_way() -> None:
    place = {name: number for number, name in enumerate(LAYERS)}
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        for path in modules()
        for line, name in imports(path)
        if name.startswith("cvmlab.")
        and place.get(package_of(name[7:]), -1) > place.get(package_of(module_name(path)), 99)
    ]
    assert wrong == []


def test_the_graph_of_packages_has_no_cycle() -> None:
    assert cycle(graph()) == []
    assert cycle({"a": {"b"}, "b": {"a"}}) != []


def test_pure_code_touches_no_socket_process_or_clock() -> None:
    pure = {name for name, package in LAYERS.items() if package.get("pure")}
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        for path in modules()
        if package_of(module_name(path)) in pure or says_it_is_pure(path)
        for line, name in imports(path)
        if name.partition(".")[0] in IMPURE_MODULES
    ]
    assert wrong == []


def says_it_is_pure(path: Path) -> bool:
    return "Pure." in (ast.get_docstring(tree_of(path)) or "")


def test_a_class_name_means_one_thing() -> None:
    """Private classes are their module's own affair."""
    places: dict[str, list[str]] = {}
    for path in modules():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module_name(path))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_a_module_name_says_what_is_in_it() -> None:
    """Commands are named for what is typed, so the modules of cli/ may repeat a package's name."""
    names = [path.stem for package in packages() for path in of_package(package)]
    names += [path.stem for path in of_package(PACKAGE)]
    repeated = {name for name in names if names.count(name) > 1}
    assert repeated - {path.stem for path in of_package(PACKAGE / "cli")} == set()
    assert set(names) & NAMES_THAT_SAY_NOTHING == set()


def test_unit_and_edge_tests_mirror_the_packages() -> None:
    folders = [path for level in ("unit", "edge") for path in (ROOT / "tests" / level).iterdir()]
    known = {*LAYERS, "__pycache__"}
    assert [str(path) for path in folders if path.is_dir() and path.name not in known] == []


def test_one_module_speaks_to_qemu_qmp() -> None:
    users = {
        module_name(path) for path in modules() for _, name in imports(path) if name[:5] == "qemu."
    }
    assert users <= {"vm.qmp"}


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
