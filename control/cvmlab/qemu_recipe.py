# SPDX-License-Identifier: GPL-2.0-or-later
"""What a build of QEMU is made from, and the finished build that was made from just that.

The hash of a build covers the source, the plugin, the configure options and the compiler.
"""

import hashlib
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from cvmlab import packages
from cvmlab.errors import BuildError
from cvmlab.firmware import SUITE
from cvmlab.paths import cache_dir
from cvmlab.qemu_source import (
    Source,
    device_files,
    digest,
    patches,
    plugin_files,
    read_choice,
    write_choice,
)


CONFIGURE_OPTIONS = (
    "--target-list=x86_64-softmmu",
    "--without-default-features",
    "--without-default-devices",
    "--with-devices-x86_64=cvmlab",
    "--disable-install-blobs",
    "--disable-debug-info",  # a fifth of the compile time
    "--enable-system",
    "--enable-tcg",
    "--enable-kvm",  # sev-guest and friends depend on it, not on /dev/kvm
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
    "--enable-trace-backends=log",
    "--disable-docs",
    "--disable-guest-agent",
    "--disable-werror",
)
PROGRAMS = ("qemu-system-x86_64", "qemu-img", "qemu-io")
COMPILER = "gcc"
_BACKEND_TYPE = "memory-backend-restricted"
_VERSION_DEADLINE_S = 10
_INSTALL_HINT = "run `cvmlab doctor`: it names the packages to install"
_PROGRAM_HINT = "correct or unset CVMLAB_QEMU, or run `cvmlab build --force`"


class Flavour(StrEnum):
    """PATCHED has the plugin; STOCK is the same source and options without it."""

    PATCHED = "patched"
    STOCK = "stock"


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what comes out of a build."""

    flavour: Flavour
    source: Source
    options: tuple[str, ...]
    compiler: str

    def key(self) -> str:
        """Return the name of the finished build's folder."""
        files = plugin_files() if self.flavour is Flavour.PATCHED else {}
        return _hash(self.tree_key(), digest(files))

    def tree_key(self) -> str:
        """Return what decides the configured tree; the plugin's own files are copied over it."""
        series = patches() if self.flavour is Flavour.PATCHED else []
        fixed = {Path(file.name): file for file in series} | device_files()
        return _hash(self.flavour, self.source.key, self.compiler, *self.options, digest(fixed))


def find(flavour: Flavour, source: Source) -> Path | None:
    """Return the finished build of that source, if there is one."""
    try:
        folder = builds_dir() / recipe_for(flavour, source).key()
    except BuildError:
        return None  # no compiler yet, so nothing was built here
    return folder if (folder / "build.json").is_file() else None


def recipe_for(flavour: Flavour, source: Source) -> Recipe:
    """Return what a build of ``source`` would be made from, here and now."""
    return Recipe(flavour, source, CONFIGURE_OPTIONS, compiler_version())


def choice() -> Source | None:
    """Return the source to build from: CVMLAB_QEMU_SOURCE, or the one chosen last."""
    named = os.environ.get("CVMLAB_QEMU_SOURCE")
    return Source.at(Path(named)) if named else read_choice(_choice_record())


def remember(source: Source) -> None:
    """Make ``source`` the one that later builds use."""
    write_choice(_choice_record(), source)


def fetch_source(on_step: Callable[[str], None]) -> Source:
    """Fetch QEMU's source package through apt, without installing anything.

    Raise BuildError; ``on_step`` is told before anything that may take long.
    """
    folder = packages.fetch("qemu", SUITE, source=True, on_step=on_step)
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


def _choice_record() -> Path:
    return builds_dir() / "source.json"


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
