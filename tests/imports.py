# SPDX-License-Identifier: GPL-2.0-or-later
"""The import graph of control/cvmlab by package: ``python -m tests.imports`` prints it.

Each line names a package and, behind the arrow, the packages it imports.  The last line says
whether there is a cycle; the exit status is 1 if there is one.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


PACKAGE = Path(__file__).resolve().parents[1] / "control" / "cvmlab"
# What pure code does without.
IMPURE_MODULES = {"asyncio", "multiprocessing", "socket", "subprocess", "threading", "time"}


def modules() -> list[Path]:
    """Return all modules, packages' ``__init__`` among them."""
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """Return the dotted name below ``cvmlab``; a package's is that of its folder."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def package_of(name: str) -> str:
    """Return the package of a module, named below ``cvmlab``."""
    return name.partition(".")[0]


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a module."""
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


def graph() -> dict[str, set[str]]:
    """Return which package imports which; modules beside the packages are left out."""
    names = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    found: dict[str, set[str]] = {name: set() for name in names}
    for path in modules():
        own = package_of(module_name(path))
        found.get(own, set()).update({package_of(name) for name in _ours(path)} & names - {own})
    return found


def cycle(edges: Mapping[str, set[str]]) -> list[str]:
    """Return the packages of one cycle, the first repeated at the end; empty if there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _ours(path: Path) -> Iterator[str]:
    return (name[7:] for _, name in imports(path) if name.startswith("cvmlab."))


def main() -> int:
    """Print the graph."""
    edges = graph()
    circle = cycle(edges)
    order = sorted(edges) if circle else list(TopologicalSorter(edges).static_order())
    for name in order:
        sys.stdout.write(f"{name:12} -> {', '.join(sorted(edges[name])) or '-'}\n")
    sys.stdout.write(f"cycle: {' -> '.join(circle) or 'none'}\n")
    return 1 if circle else 0


if __name__ == "__main__":
    sys.exit(main())
