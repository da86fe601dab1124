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
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from cvmlab.base.errors import BuildError, ConfigError
from cvmlab.base.locks import exclusive
from cvmlab.base.paths import checkout_dir
from cvmlab.base.progress import Part, Style, Task, task
from cvmlab.base.steps import Steps
from cvmlab.debian import apt
from cvmlab.profiles.architecture import DEFAULT_ARCHITECTURE, Architecture
from cvmlab.qemu import source as qemu_source
from cvmlab.qemu.recipe import (
    COMPILER,
    Flavour,
    Recipe,
    build_name,
    build_record,
    builds_dir,
    choice,
    fetch_source,
    find,
    has_backend,
    profile_of,
    program_version,
    recipe_for,
    remember,
)
from cvmlab.qemu.series import apply, patches_for, series_dir, series_of
from cvmlab.qemu.source import Source, SourceKind, tree_version
from cvmlab.qemu.tuning import Tuning, collect_profile, place_profile
from cvmlab.qemu.versions import QemuVersion


_FETCH = Part("fetching the source", 15.0)
_UNPACK = Part("unpacking", 25.0)
_CONFIGURE = Part("configuring", 20.0)
_COMPILE = Part("compiling", 130.0)
_TRAIN = Part("booting for the profile", 60.0)
_INSTALL = Part("installing", 2.0)
_TO_TRAIN = (_FETCH, _UNPACK, _CONFIGURE, _COMPILE, _TRAIN)
_PHASES = (_FETCH, _UNPACK, _CONFIGURE, _COMPILE, _INSTALL)
# Runs a QEMU on what a profile is to be of, until it exits by itself.
Train = Callable[[Path], None]

_CONFIGURE_DEADLINE_S = 600.0
_COMPILE_DEADLINE_S = 7200.0
_PROBE_DEADLINE_S = 30.0
_LOCK_DEADLINE_S = 7200.0
_NEEDED_BYTES = 1 << 30
_KEPT_BUILDS = 6
_KEPT_PROFILES = 8  # of two flavours and two versions
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


def compile_qemu(
    flavour: Flavour,
    version: QemuVersion | None,
    source: Source | None,
    architecture: Architecture,
    *,
    asked: Tuning | None,
    force: bool,
    style: Style,
    train: Train | None,
) -> Path:
    """Build and install that flavour for *architecture*; return its folder.  Raise BuildError.

    Without a source, Debian's is fetched.  A build that another process finished meanwhile is
    taken as it is, unless ``force``.  PGO needs a profile: without one, ``train`` makes it.
    """
    apt.ensure([apt.Need.BUILD], style=style)
    tuning, name = flavour.tunings(asked)[-1], build_name(flavour, architecture)
    with exclusive(builds_dir() / "lock", "build of QEMU", deadline_s=_LOCK_DEADLINE_S):
        if tuning is Tuning.PGO:
            with _task(name, Tuning.TRAINING, version, style) as running:
                source = _source(version, source, running, force=force)
                training = recipe_for(flavour, source, Tuning.TRAINING, architecture)
                _profile(training, version, running, force=force, train=train)
        with _task(name, tuning, version, style) as running:
            running.enter(_FETCH.name)
            chosen = _source(version, source, running, force=force)
            found = None if force else find(flavour, chosen, version, tuning, architecture)
            recipe = recipe_for(flavour, chosen, tuning, architecture)
            installed = found or _make(recipe, version, running, force=force)
    remember(chosen, version, installed)
    return installed


def _task(
    name: str, tuning: Tuning, version: QemuVersion | None, style: Style
) -> AbstractContextManager[Task]:
    number = f"{version.name} " if version else ""
    parts = _TO_TRAIN if tuning is Tuning.TRAINING else _PHASES
    return task(f"QEMU {number}({name}, {tuning})", parts, style=style, stream=sys.stderr)


def _profile(
    training: Recipe,
    version: QemuVersion | None,
    running: Task,
    *,
    force: bool,
    train: Train | None,
) -> None:
    """See that there is a profile of just this source and plugin: build, run, collect."""
    profile = profile_of(training)
    if profile.is_file() and not force:
        return
    if train is None:
        raise BuildError(
            "there is no profile of this QEMU, which PGO goes by",
            hint=f"run `cvmlab build --pgo{' --stock' if training.flavour is Flavour.STOCK else ''}`",
        )
    work = _compiled(training, version, running, force=force)
    running.enter(_TRAIN.name)
    train(work.build / training.programs[0])
    collect_profile(work.build, profile)
    shutil.rmtree(work.root, ignore_errors=True)


def _source(
    version: QemuVersion | None, source: Source | None, running: Task, *, force: bool
) -> Source:
    if source is None or (source.kind is SourceKind.DEBIAN and not source.path.exists()):
        earlier = choice(version) if force else None
        if earlier is None or earlier.kind is SourceKind.DEBIAN:
            return fetch_source(version, lambda _step: running.tick())
        return Source.at(earlier.path)
    return source


def _make(recipe: Recipe, version: QemuVersion | None, running: Task, *, force: bool) -> Path:
    key = recipe.key()  # before the files are copied: a file edited meanwhile gives no wrong hit
    work = _compiled(recipe, version, running, force=force)
    running.enter(_INSTALL.name)
    installed = _install(work, recipe, key)
    _prune(work, recipe)
    return installed


def _compiled(recipe: Recipe, version: QemuVersion | None, running: Task, *, force: bool) -> Work:
    """Return the folder with the programs that the recipe makes."""
    _require_space(builds_dir())
    work = Work(builds_dir() / f"work-{recipe.name}-{recipe.tree_key()}")
    if force or not recipe.tuning.uses_ccache:  # then no object of an earlier build fits
        shutil.rmtree(work.root, ignore_errors=True)
    log = builds_dir() / f"build-{recipe.name}.log"
    log.unlink(missing_ok=True)
    steps = Steps(log=log, tick=running.tick, env=_environment(work))
    _prepare(work, recipe, steps, running)
    _require_version(work, version)
    _configure(work, recipe, steps, running)
    running.enter(_COMPILE.name)
    steps.run(
        ["ninja", "-C", work.build, f"-j{_jobs()}", *recipe.programs],
        what="compiling QEMU",
        deadline_s=_COMPILE_DEADLINE_S,
        on_line=lambda line: _follow(line, running, recipe.tuning),
    )
    return work


def _prepare(work: Work, recipe: Recipe, steps: Steps, running: Task) -> None:
    """Unpack and patch the source, once, and copy the plugin's present files into it."""
    patched = recipe.flavour.has_plugin
    if not work.ready.exists():
        running.enter(_UNPACK.name)
        shutil.rmtree(work.root, ignore_errors=True)
        work.root.mkdir(parents=True)
        recipe.source.unpack(work.tree, steps)
        qemu_source.place(work.tree, recipe.devices)
        if patched:
            _patch(work.tree, steps)
        work.ready.touch()
    if patched:
        qemu_source.sync_plugin(work.tree)


def _patch(tree: Path, steps: Steps) -> None:
    """Apply the series to a fresh tree; raise BuildError, which lists the hunks that do not fit."""
    version = tree_version(tree)
    rejected = apply(patches_for(version, series_dir()), tree, steps)
    if rejected:
        listed = "".join(f"\n    {hunk}" for hunk in rejected)
        raise BuildError(
            f"{len(rejected)} hunks of plugin/patches do not fit QEMU {version}",
            hint=f"plugin/patches/README.md tells how to move the series; rejected are{listed}",
        )


def _require_version(work: Work, version: QemuVersion | None) -> None:
    found = tree_version(work.tree)
    if version is not None and not found.startswith(version.prefix):
        raise BuildError(
            f"this is QEMU {found}, and {version.name} was asked for",
            hint="leave out --qemu-version, or choose another source with --qemu-source",
        )


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
            f"--cc={'ccache ' if recipe.tuning.uses_ccache else ''}{COMPILER}",
            f"--python={sys.executable}",  # has meson; the one of Debian 12 is too old
        ],
        what="configuring QEMU",
        deadline_s=_CONFIGURE_DEADLINE_S,
        cwd=work.build,
    )
    if recipe.tuning is Tuning.PGO:
        place_profile(profile_of(recipe), work.build)


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


def _follow(line: str, running: Task, tuning: Tuning) -> None:
    step = _NINJA_STEP.match(line)
    if step:
        running.advance(tuning.share_of_steps * int(step[1]) / max(int(step[2]), 1))


def _install(work: Work, recipe: Recipe, key: str) -> Path:
    """Copy the programs, see that they run, and let the folder appear by one rename."""
    partial = Path(mkdtemp(dir=builds_dir(), prefix="partial-"))
    try:
        (partial / "bin").mkdir()
        for name in recipe.programs:
            shutil.copy2(work.build / name, partial / "bin" / name)
        qemu = partial / "bin" / recipe.programs[0]
        if recipe.flavour.has_plugin:
            _require_backend(qemu)
        record = {
            "version": program_version(qemu),
            "patch_hash": key if recipe.flavour.has_plugin else "",
            "flavour": recipe.flavour,
            "architecture": recipe.architecture.name,
            "tuning": recipe.tuning,
            "profile": recipe.profile,
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


def _prune(work: Work, recipe: Recipe) -> None:
    """Remove what later builds of this version of QEMU will not use.

    That is other trees of this flavour, old builds and old profiles.  Other versions and architectures
    keep theirs.
    """
    flavour = recipe.flavour
    keep = flavour.has_plugin and recipe.tuning.uses_ccache and checkout_dir() is not None
    ours = series_of(tree_version(work.tree))
    for folder in builds_dir().glob(f"work-{recipe.name}-*"):
        if not keep if folder == work.root else _series_of(Work(folder)) in (ours, None):
            shutil.rmtree(folder, ignore_errors=True)
    for leftover in builds_dir().glob("partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    records = _newest_first(builds_dir().glob("*/build.json"))
    mine = (ours, recipe.architecture.name)
    same = [path.parent for path in records if _built_for(path.parent) == mine]
    for old in same[_KEPT_BUILDS:]:
        shutil.rmtree(old, ignore_errors=True)
    for profile in _newest_first(builds_dir().glob("profiles/*"))[_KEPT_PROFILES:]:
        profile.unlink(missing_ok=True)


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)


def _series_of(work: Work) -> str | None:
    try:
        return series_of(tree_version(work.tree))
    except BuildError:
        return None  # it was never unpacked


def _built_for(installed: Path) -> tuple[str, str] | None:
    """Return the series and the architecture of a finished build."""
    record = build_record(installed)
    if record is None:
        return None
    name = record.get(
        "architecture", DEFAULT_ARCHITECTURE.name
    )  # of builds from before there were two
    return series_of(str(record["version"])), name


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
