# SPDX-License-Identifier: GPL-2.0-or-later
"""The long way of build.py: fetch, unpack, patch, configure, compile, install.

One build at a time, by a lock on the cache.  The tree is kept in a checkout, where the plugin is
worked on: a changed plugin file then costs one incremental ninja run.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from cvmlab import apt, qemu_source
from cvmlab.errors import BuildError, ConfigError
from cvmlab.locks import exclusive
from cvmlab.paths import checkout_dir
from cvmlab.progress import Phase, Style, Task, task
from cvmlab.qemu_recipe import (
    COMPILER,
    PROGRAMS,
    Flavour,
    Recipe,
    builds_dir,
    choice,
    fetch_source,
    find,
    has_backend,
    program_version,
    recipe_for,
    remember,
)
from cvmlab.qemu_source import Source, SourceKind
from cvmlab.steps import Steps


_FETCH = Phase("fetching the source", 15.0)
_UNPACK = Phase("unpacking", 25.0)
_CONFIGURE = Phase("configuring", 20.0)
_COMPILE = Phase("compiling", 130.0)
_INSTALL = Phase("installing", 2.0)
_PHASES = (_FETCH, _UNPACK, _CONFIGURE, _COMPILE, _INSTALL)

_CONFIGURE_DEADLINE_S = 600.0
_COMPILE_DEADLINE_S = 7200.0
_PROBE_DEADLINE_S = 30.0
_LOCK_DEADLINE_S = 7200.0
_NEEDED_BYTES = 1 << 30
_KEPT_BUILDS = 4
_NINJA_STEP = re.compile(r"\[(\d+)/(\d+)\]")
# The hash of a build knows nothing of these, so they must not change it.  ccache takes an object
# compiled under another LANG or LC_* for another object.
_IGNORED_VARIABLE = re.compile(r"CC|CXX|(C|CXX|CPP|LD|MAKE)FLAGS|LANG|LANGUAGE|LC_\w+")


@dataclass(frozen=True, slots=True)
class Work:
    """The folder a build happens in."""

    root: Path

    @property
    def tree(self) -> Path:
        """QEMU's source, patched."""
        return self.root / "src"

    @property
    def build(self) -> Path:
        """Where ninja runs."""
        return self.root / "build"

    @property
    def ready(self) -> Path:
        """Exists once ``tree`` is complete."""
        return self.root / "unpacked"


def compile_qemu(flavour: Flavour, source: Source | None, *, force: bool, style: Style) -> Path:
    """Build and install that flavour; return its folder.  Raise BuildError.

    Without a source, Debian's is fetched.  A build that another process finished meanwhile is
    taken as it is, unless ``force``.
    """
    apt.ensure([apt.Need.BUILD], style=style)
    with (
        exclusive(builds_dir() / "lock", "build of QEMU", deadline_s=_LOCK_DEADLINE_S),
        task(f"QEMU ({flavour})", _PHASES, style=style, stream=sys.stderr) as running,
    ):
        running.enter(_FETCH.name)
        chosen = _source(source, running, force=force)
        found = None if force else find(flavour, chosen)
        installed = found or _make(recipe_for(flavour, chosen), running, force=force)
    remember(chosen)
    return installed


def _source(source: Source | None, running: Task, *, force: bool) -> Source:
    if source is None or (source.kind is SourceKind.DEBIAN and not source.path.exists()):
        earlier = choice() if force else None
        if earlier is None or earlier.kind is SourceKind.DEBIAN:
            return fetch_source(lambda _step: running.tick())
        return Source.at(earlier.path)
    return source


def _make(recipe: Recipe, running: Task, *, force: bool) -> Path:
    _require_space(builds_dir())
    work = Work(builds_dir() / f"work-{recipe.flavour}-{recipe.tree_key()}")
    if force:
        shutil.rmtree(work.root, ignore_errors=True)
    log = builds_dir() / f"build-{recipe.flavour}.log"
    log.unlink(missing_ok=True)
    steps = Steps(log=log, tick=running.tick, env=_environment(work))
    key = recipe.key()  # before the files are copied: a file edited meanwhile gives no wrong hit
    _prepare(work, recipe, steps, running)
    _configure(work, recipe, steps, running)
    running.enter(_COMPILE.name)
    steps.run(
        ["ninja", "-C", work.build, f"-j{_jobs()}", *PROGRAMS],
        what="compiling QEMU",
        deadline_s=_COMPILE_DEADLINE_S,
        on_line=lambda line: _follow(line, running),
    )
    running.enter(_INSTALL.name)
    installed = _install(work, recipe, key)
    _prune(work, recipe.flavour)
    return installed


def _prepare(work: Work, recipe: Recipe, steps: Steps, running: Task) -> None:
    """Unpack and patch the source, once, and copy the plugin's present files into it."""
    patched = recipe.flavour is Flavour.PATCHED
    if not work.ready.exists():
        running.enter(_UNPACK.name)
        shutil.rmtree(work.root, ignore_errors=True)
        work.root.mkdir(parents=True)
        recipe.source.unpack(work.tree, steps)
        qemu_source.place(work.tree, qemu_source.device_files())
        if patched:
            qemu_source.patch(work.tree, steps)
        work.ready.touch()
    if patched:
        qemu_source.sync_plugin(work.tree)


def _configure(work: Work, recipe: Recipe, steps: Steps, running: Task) -> None:
    if (work.build / "build.ninja").is_file() and _has_meson(work.build / "pyvenv/bin/python3"):
        return
    running.enter(_CONFIGURE.name)
    shutil.rmtree(work.build, ignore_errors=True)
    work.build.mkdir()
    steps.run(
        [
            "../src/configure",
            *recipe.options,
            f"--cc=ccache {COMPILER}",
            f"--python={sys.executable}",  # has meson; the one of Debian 12 is too old
        ],
        what="configuring QEMU",
        deadline_s=_CONFIGURE_DEADLINE_S,
        cwd=work.build,
    )


def _has_meson(python: Path) -> bool:
    """Tell whether the build folder's Python still works: it leans on the one that made it."""
    try:
        probe = subprocess.run(
            [python, "-c", "import mesonbuild"],
            capture_output=True,
            check=False,
            timeout=_PROBE_DEADLINE_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return probe.returncode == 0


def _follow(line: str, running: Task) -> None:
    step = _NINJA_STEP.match(line)
    if step:
        running.advance(int(step[1]) / max(int(step[2]), 1))


def _install(work: Work, recipe: Recipe, key: str) -> Path:
    """Copy the programs, see that they run, and let the folder appear by one rename."""
    partial = Path(mkdtemp(dir=builds_dir(), prefix="partial-"))
    try:
        (partial / "bin").mkdir()
        for name in PROGRAMS:
            shutil.copy2(work.build / name, partial / "bin" / name)
        qemu = partial / "bin" / PROGRAMS[0]
        if recipe.flavour is Flavour.PATCHED:
            _require_backend(qemu)
        record = {
            "version": program_version(qemu),
            "patch_hash": key if recipe.flavour is Flavour.PATCHED else "",
            "flavour": recipe.flavour,
            "source": recipe.source.to_json(),
            "options": recipe.options,
            "compiler": recipe.compiler,
        }
        (partial / "build.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        partial.chmod(0o755)
        target = builds_dir() / key
        shutil.rmtree(target, ignore_errors=True)  # only after --force
        return partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _require_backend(qemu: Path) -> None:
    if not has_backend(qemu):
        raise BuildError(
            "the QEMU that was built lacks the plugin",
            hint="the plugin's meson.build or patches leave it out",
        )


def _prune(work: Work, flavour: Flavour) -> None:
    """Remove what later builds will not use: other trees of this flavour, and old builds."""
    keep = flavour is Flavour.PATCHED and checkout_dir() is not None
    for folder in builds_dir().glob(f"work-{flavour}-*"):
        if folder != work.root or not keep:
            shutil.rmtree(folder, ignore_errors=True)
    for leftover in builds_dir().glob("partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    records = builds_dir().glob("*/build.json")
    newest_first = sorted(records, key=lambda record: record.stat().st_mtime, reverse=True)
    for record in newest_first[_KEPT_BUILDS:]:
        shutil.rmtree(record.parent, ignore_errors=True)


def _environment(work: Work) -> dict[str, str]:
    kept = {
        name: text for name, text in os.environ.items() if not _IGNORED_VARIABLE.fullmatch(name)
    }
    ours = {"LC_ALL": "C", "NINJA_STATUS": "[%f/%t] "}
    # Objects carry no folder names, so trees in different folders share them: the stock build
    # and a new plugin find most of what an earlier build compiled.
    ours |= {"CCACHE_BASEDIR": str(work.root), "CCACHE_NOHASHDIR": "1"}
    defaults = {"CCACHE_DIR": str(builds_dir() / "ccache"), "CCACHE_MAXSIZE": "1G"}
    return defaults | kept | ours


def _jobs() -> int:
    wanted = os.environ.get("CVMLAB_JOBS")
    if wanted is None:
        return len(os.sched_getaffinity(0))
    if not wanted.isdecimal() or int(wanted) < 1:
        raise ConfigError(f"CVMLAB_JOBS={wanted} is not a number of jobs", hint="use 1 or more")
    return int(wanted)


def _require_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _NEEDED_BYTES:
        raise BuildError(
            f"{folder} has {free >> 20} MiB free, and a build needs {_NEEDED_BYTES >> 20} MiB",
            hint="free some disk space, or point XDG_CACHE_HOME elsewhere",
        )
