# SPDX-License-Identifier: GPL-2.0-or-later
"""What a build of QEMU is made from, and the finished build that was made from just that.

The hash of a build covers the source, the plugin, the configure options and the compiler.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import Any

from cvmlab.base.errors import BuildError, CvmError, NoSourceError
from cvmlab.base.paths import cache_dir
from cvmlab.debian import packages
from cvmlab.debian.pool import fetch_pinned
from cvmlab.profiles.architecture import DEFAULT_ARCHITECTURE, Architecture
from cvmlab.qemu.series import patches, series_dir, series_of
from cvmlab.qemu.source import (
    Source,
    device_files,
    digest,
    plugin_files,
    read_choice,
    write_choice,
)
from cvmlab.qemu.tuning import Tuning, profile_at, profile_digest
from cvmlab.qemu.versions import DEFAULT_VERSION, QemuVersion


_MINIMAL = ("--without-default-features", "--without-default-devices")
_EMULATOR = (
    "--disable-install-blobs",
    "--disable-debug-info",  # a fifth of the compile time
    "--enable-system",
    "--enable-tcg",
)
_FEATURES = (
    "--enable-slirp",
    "--enable-fdt=system",
    "--enable-pixman",
    "--enable-virtfs",
    "--enable-attr",
    "--enable-cap-ng",
    "--enable-vhost-user",
    "--enable-vhost-kernel",
    "--enable-vhost-net",
    "--enable-tools",
    # Formats of users' disks besides raw and qcow2: machine/disk_format.py.
    "--enable-vmdk",
    "--enable-vdi",
    "--enable-vhdx",
    "--enable-vpc",
    "--enable-trace-backends=log",
    "--disable-docs",
    "--disable-guest-agent",
    "--disable-werror",
    "--disable-download",  # what its Python lacks, cvmlab depends on
)
_TARGETS = ("x86_64-softmmu", "aarch64-softmmu")
_TARGETS_OPTIONS = (
    f"--target-list={','.join(_TARGETS)},x86_64-linux-user",
    "--with-devices-aarch64=cvmlab",
)
_TOOLS = ("qemu-img", "qemu-io")
PROGRAMS = (DEFAULT_ARCHITECTURE.qemu, *_TOOLS)
TARGETS_PROGRAMS = ("qemu-system-x86_64", "qemu-system-aarch64", "qemu-x86_64")
COMPILER = "gcc"
_BACKEND_TYPE = "memory-backend-restricted"
_VERSION_DEADLINE_S = 10
_INSTALL_HINT = "run `cvmlab doctor`: it names the packages to install"
_PROGRAM_HINT = "correct or unset CVMLAB_QEMU, or run `cvmlab build --force`"


class Flavour(StrEnum):
    """PATCHED has the plugin; STOCK is the same source and options without it.

    TARGETS is PATCHED for other targets as well: a test sees that it can be built.  SANITIZED is
    PATCHED under ASan and UBSan.  PLANTED is that with a memory error in it, for tests that attacks
    find one.
    """

    PATCHED = "patched"
    STOCK = "stock"
    TARGETS = "targets"
    SANITIZED = "sanitized"
    PLANTED = "planted"

    @property
    def has_plugin(self) -> bool:
        """Tell whether the plugin is in it."""
        return self is not Flavour.STOCK

    def programs(self, architecture: Architecture = DEFAULT_ARCHITECTURE) -> tuple[str, ...]:
        """Name the programs to build; the first one is an emulator."""
        if self is Flavour.TARGETS:
            return TARGETS_PROGRAMS
        tools = () if self in (Flavour.SANITIZED, Flavour.PLANTED) else _TOOLS
        return (architecture.qemu, *tools)

    def targets(self, architecture: Architecture = DEFAULT_ARCHITECTURE) -> tuple[str, ...]:
        """Name the targets with devices."""
        return _TARGETS if self is Flavour.TARGETS else (architecture.target,)

    def options(self, architecture: Architecture = DEFAULT_ARCHITECTURE) -> tuple[str, ...]:
        """Return what configure is told; of two target lists the last one counts."""
        return (
            f"--target-list={architecture.target}",
            *_MINIMAL,
            f"--with-devices-{architecture.name}=cvmlab",
            *_EMULATOR,
            *architecture.configure,
            *_FEATURES,
            *_OPTIONS.get(self, ()),
        )

    def tunings(self, asked: Tuning | None) -> tuple[Tuning, ...]:
        """Return how it may be optimized, best first; the last one is built if none is there.

        What only tests build is not optimized.
        """
        if self not in (Flavour.PATCHED, Flavour.STOCK):
            return (Tuning.PLAIN,)
        return (asked,) if asked else (Tuning.PGO, Tuning.LTO)


_SANITIZED_OPTIONS = ("--enable-asan", "--enable-ubsan", "--enable-debug-info")
_OPTIONS = {
    Flavour.TARGETS: _TARGETS_OPTIONS,
    Flavour.SANITIZED: _SANITIZED_OPTIONS,
    Flavour.PLANTED: (*_SANITIZED_OPTIONS, "--extra-cflags=-DRESTRICTED_PLANT_BUG"),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what comes out of a build."""

    flavour: Flavour
    source: Source
    tuning: Tuning
    compiler: str
    architecture: Architecture
    profile: str = ""  # the hash of what PGO goes by

    @property
    def name(self) -> str:
        """Return what its log and its tree are called."""
        return build_name(self.flavour, self.architecture)

    @property
    def programs(self) -> tuple[str, ...]:
        """Name the programs to build; the first one is an emulator."""
        return self.flavour.programs(self.architecture)

    @property
    def devices(self) -> dict[Path, Path]:
        """Return the lists of devices that it is built with."""
        return device_files(self.flavour.targets(self.architecture))

    @property
    def options(self) -> tuple[str, ...]:
        """Return what configure is told."""
        return self.flavour.options(self.architecture) + self.tuning.options

    def key(self) -> str:
        """Return the name of the finished build's folder."""
        files = plugin_files() if self.flavour.has_plugin else {}
        return _hash(self.tree_key(), digest(files), self.profile)

    def tree_key(self) -> str:
        """Return what decides the configured tree; the plugin's own files are copied over it."""
        fixed = (patches(series_dir()) if self.flavour.has_plugin else {}) | self.devices
        return _hash(self.flavour, self.source.key, self.compiler, *self.options, digest(fixed))


def build_name(flavour: Flavour, architecture: Architecture) -> str:
    """Return a word for the builds of a flavour for an architecture."""
    is_default = architecture is DEFAULT_ARCHITECTURE
    return flavour.value if is_default else f"{architecture.name}-{flavour}"


def find(
    flavour: Flavour,
    source: Source,
    version: QemuVersion | None,
    asked: Tuning | None = None,
    architecture: Architecture = DEFAULT_ARCHITECTURE,
) -> Path | None:
    """Return the finished build of that source, if there is one and it is of that version.

    Of several, it is the fastest, unless one tuning is asked for.
    """
    for tuning in flavour.tunings(asked):
        if tuning is Tuning.PGO and not any(_profiles_dir().glob("*")):
            continue  # without hashing the plugin for nothing
        try:
            folder = builds_dir() / recipe_for(flavour, source, tuning, architecture).key()
        except BuildError:
            return None  # no compiler yet, so nothing was built here
        built = built_version(folder)
        if built is not None and (version is None or built.startswith(version.prefix)):
            return folder
    return None


def built_version(installed: Path) -> str | None:
    """Return the version of the QEMU in a finished build's folder; None if it is none."""
    record = build_record(installed)
    return None if record is None else str(record["version"])


def build_record(installed: Path) -> dict[str, Any] | None:
    """Return what a finished build's folder says of itself; None if it is none."""
    try:
        text = (installed / "build.json").read_text(encoding="utf-8")
    except OSError:
        return None
    record: dict[str, Any] = json.loads(text)
    return record


def recipe_for(
    flavour: Flavour,
    source: Source,
    tuning: Tuning,
    architecture: Architecture = DEFAULT_ARCHITECTURE,
) -> Recipe:
    """Return what a build of ``source`` would be made from, here and now."""
    recipe = Recipe(flavour, source, tuning, compiler_version(), architecture)
    if tuning is not Tuning.PGO:
        return recipe
    return replace(recipe, profile=profile_digest(profile_of(recipe)))


def profile_of(recipe: Recipe) -> Path:
    """Return where the profile for a build is, or will be."""
    training = replace(recipe, tuning=Tuning.TRAINING, profile="")
    return profile_at(_profiles_dir(), training.key())


def _profiles_dir() -> Path:
    return builds_dir() / "profiles"


def choice(version: QemuVersion | None = None) -> Source | None:
    """Return the source to build ``version`` from: the one used last.

    Where no version is asked for, CVMLAB_QEMU_SOURCE goes before it.
    """
    named = os.environ.get("CVMLAB_QEMU_SOURCE")
    if named and version is None:
        return Source.at(Path(named))
    return read_choice(_choice_record(version.name if version else None))


def remember(source: Source, version: QemuVersion | None, installed: Path) -> None:
    """Make ``source`` the one that later builds use of this version, and of the one it is of."""
    built = built_version(installed)
    write_choice(_choice_record(version.name if version else None), source)
    if built is not None:
        write_choice(_choice_record(series_of(built)), source)


def fetch_source(version: QemuVersion | None, on_step: Callable[[str], None]) -> Source:
    """Fetch the first source of ``version`` that is there, without installing anything.

    ``on_step`` is called before each step that may take long.  Raise NoSourceError, which says what
    was looked for; where there is only one place to look, raise what went wrong there.
    """
    wanted = version or DEFAULT_VERSION
    failures: list[CvmError] = []
    for fetch in _fetchers(wanted, on_step):
        try:
            return _description(fetch())
        except CvmError as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    raise NoSourceError(
        f"there is no source of QEMU {wanted.name}: "
        + "; ".join(error.message for error in failures),
        hint=f"give one: cvmlab build --qemu-version {wanted.name} --qemu-source FILE",
    )


def _fetchers(version: QemuVersion, on_step: Callable[[str], None]) -> Iterator[Callable[[], Path]]:
    if version.pinned is not None:
        yield partial(fetch_pinned, version.pinned, on_step)
    for suite in version.suites:
        yield partial(packages.fetch_source, "qemu", version.prefix, suite, on_step=on_step)


def _description(folder: Path) -> Source:
    found = sorted(folder.glob("*.dsc"))
    if len(found) != 1:
        raise BuildError(f"{folder} holds {len(found)} .dsc files, not one")
    return Source.at(found[0])


def builds_dir() -> Path:
    """Return the folder of all builds."""
    return cache_dir() / "qemu"


@cache
def compiler_version() -> str:
    """Return what the compiler calls itself; raise BuildError if there is none."""
    return _output([COMPILER, "--version"], f"there is no {COMPILER}", _INSTALL_HINT).partition(
        "\n"
    )[0]


def program_version(program: Path) -> str:
    """Return the version number that a QEMU program prints; raise BuildError."""
    line = _output(
        [os.fspath(program), "--version"], f"{program} does not run", _PROGRAM_HINT
    ).partition("\n")[0]
    return line.partition(" version ")[2].split(" ")[0]


def has_backend(qemu: Path) -> bool:
    """Tell whether that QEMU has the plugin; raise BuildError if it does not run."""
    return _BACKEND_TYPE in _output(
        [os.fspath(qemu), "-object", "help"], f"{qemu} does not run", _PROGRAM_HINT
    )


def _output(command: list[str], failure: str, hint: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_VERSION_DEADLINE_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(failure, hint=hint) from error
    return done.stdout


def _choice_record(version: str | None) -> Path:
    return builds_dir() / ("source.json" if version is None else f"source-{version}.json")


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
