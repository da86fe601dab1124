# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiled core: meson's, when meson runs the tests; else one compiled here."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from cvmlab.base.resources import plugin_dir
from tests.plugin.core import Core, Library


_SOURCES = ("rules.c", "table.c", "marks.c", "ring.c", "stacks.c")
_CFLAGS = ("-std=c11", "-O1", "-g", "-fPIC")
MakeCore = Callable[..., Core]


@pytest.fixture(scope="session")
def build_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with librmem.so and the layout program."""
    if shutil.which("cc") is None:
        if os.environ.get("CVMLAB_REQUIRE") == "1":
            pytest.fail("no C compiler (cc), and CVMLAB_REQUIRE=1")
        pytest.skip("no C compiler (cc) to compile the core with")
    folder = tmp_path_factory.mktemp("core")
    compile_core(plugin_dir() / "core", folder)
    return folder


def compile_core(core: Path, folder: Path) -> None:
    """Compile the sources in *core* into librmem.so and the layout program."""
    with (folder / "transitions.inc").open("wb") as out:
        names = ("gen-transitions.py", "transitions.toml")
        subprocess.run([sys.executable, *(core / name for name in names)], stdout=out, check=True)
    includes = [f"-I{core}", f"-I{folder}"]
    sources = [core / name for name in _SOURCES]
    layout = Path(__file__).with_name("layout.c")
    compile_ = ["cc", *_CFLAGS, *includes]
    subprocess.run([*compile_, "-shared", "-o", folder / "librmem.so", *sources], check=True)
    subprocess.run([*compile_, "-o", folder / "layout", layout], check=True)


@pytest.fixture(scope="session")
def library(request: pytest.FixtureRequest) -> Library:
    given = os.environ.get("CVMLAB_CORE_LIBRARY")
    return Library(Path(given or request.getfixturevalue("build_dir") / "librmem.so"))


@pytest.fixture(scope="session")
def layout_program(request: pytest.FixtureRequest) -> Path:
    given = os.environ.get("CVMLAB_CORE_LAYOUT")
    return Path(given or request.getfixturevalue("build_dir") / "layout")


@pytest.fixture
def make_core(library: Library) -> MakeCore:
    """Make cores; arguments are those of Core, but for the library."""
    return partial(Core, library)
