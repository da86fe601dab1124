# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU with the plugin in it: built once, and found again by what it was built from.

Under ``$XDG_CACHE_HOME/cvmlab/qemu``::

    <hash>/bin/qemu-system-x86_64, qemu-img, qemu-io     a finished build
    <hash>/build.json                                    what it was built from, and how
    profiles/<hash>.tar.xz                               what `build --pgo` goes by
    work-<flavour>-<hash>/{src,build}                    kept in a checkout: the next is incremental
    work-aarch64-<flavour>-<hash>/                       of another architecture; built when asked for
    source.json, source-<version>.json                   the source that was chosen last
    ccache/, lock, build-<flavour>.log

A wheel that carries QEMU (wheel.py) needs none of it: what it carries is taken first.  A finished build appears by one rename, so whoever sees it sees all of it.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from cvmlab.base.errors import BuildError, ConfigError
from cvmlab.base.progress import Style
from cvmlab.base.resources import bundle_dir
from cvmlab.profiles.architecture import DEFAULT_ARCHITECTURE, Architecture
from cvmlab.qemu.firmware import ovmf, rom_dirs, update
from cvmlab.qemu.recipe import (
    PROGRAMS,
    Flavour,
    build_record,
    choice,
    find,
    program_version,
    remember,
)
from cvmlab.qemu.source import Source
from cvmlab.qemu.tuning import Tuning, asked_tuning
from cvmlab.qemu.versions import QemuVersion, asked_version


__all__ = [
    "build_of",
    "identity",
    "main",
    "ovmf",
    "qemu_binary",
    "qemu_img",
    "rom_dirs",
    "stock_qemu_binary",
]


def qemu_binary(
    version: str | None = None,
    architecture: Architecture = DEFAULT_ARCHITECTURE,
    *,
    build: bool = True,
) -> Path:
    """Return the patched QEMU: the one named by its variable, the package's own, or the one built here.

    It is built first if need be.  A ``version`` of versions.py goes before the variable.

    Raise BuildError if it is missing and ``build`` is False, or if it cannot be built.
    """
    named = os.environ.get(architecture.qemu_variable) if version is None else None
    if named:
        return Path(named)
    return _carried_or_built(architecture.qemu, version, architecture, build=build)


def stock_qemu_binary(
    version: str | None = None, *, tuning: str | None = None, build: bool = True
) -> Path:
    """Return the unpatched QEMU of the same source and options; CVMLAB_STOCK_QEMU overrides.

    To compare speed, ask for the ``tuning`` of the other one.
    """
    named = os.environ.get("CVMLAB_STOCK_QEMU") if version is None else None
    if named:
        return Path(named)
    return _program(PROGRAMS[0], Flavour.STOCK, version, tuning=tuning, build=build)


def qemu_img(
    version: str | None = None,
    architecture: Architecture = DEFAULT_ARCHITECTURE,
    *,
    build: bool = True,
) -> Path:
    """Return qemu-img: the one beside a QEMU that a variable names if that has one, else ours."""
    named = os.environ.get(architecture.qemu_variable) if version is None else None
    if named and (beside := Path(named).with_name("qemu-img")).is_file():
        return beside
    return _carried_or_built("qemu-img", version, architecture, build=build)


def identity(
    version: str | None = None, architecture: Architecture = DEFAULT_ARCHITECTURE
) -> dict[str, str]:
    """Return ``version``, ``patch_hash`` and ``tuning`` of the QEMU that qemu_binary() returns.

    Of a QEMU named by a variable that cvmlab did not build, the last two are empty.
    """
    binary = qemu_binary(version, architecture, build=False)
    record = build_record(binary.parent.parent)
    if record is None:
        return {"version": program_version(binary), "patch_hash": "", "tuning": ""}
    return {name: record.get(name, "") for name in ("version", "patch_hash", "tuning")}


def build_of(binary: Path) -> str:
    """Return a word for a QEMU: a saved guest fits the one that has the same word."""
    record = build_record(binary.parent.parent)
    if record is not None:
        return f"{record.get('version', '')} {record.get('patch_hash', '')}"
    found = binary.stat()
    return f"{binary.resolve()} {found.st_size} {found.st_mtime_ns}"


def main(
    *,
    qemu_version: str | None = None,
    qemu_source: Path | None = None,
    stock: bool = False,
    sanitize: bool = False,
    tuning: str | None = None,
    force: bool = False,
    style: Style = Style.AUTO,
    train: Callable[[Path], None] | None = None,
    architecture: Architecture = DEFAULT_ARCHITECTURE,
) -> int:
    """Build as `cvmlab build` does; print where the result is; return the exit code.

    On standard error it says what it is, so that standard output is one path.
    """
    if stock and sanitize:
        raise ConfigError(
            "--stock and --sanitize exclude each other",
            hint="the sanitizers look at a QEMU with the plugin",
        )
    flavour = Flavour.STOCK if stock else Flavour.SANITIZED if sanitize else Flavour.PATCHED
    installed = install(
        flavour,
        qemu_version,
        source=qemu_source,
        tuning=tuning,
        force=force,
        style=style,
        train=train,
        architecture=architecture,
    )
    record = build_record(installed) or {}
    sys.stderr.write(f"QEMU {record.get('version')}, {flavour}, {record.get('tuning', 'plain')}\n")
    sys.stdout.write(f"{installed / 'bin' / architecture.qemu}\n")
    if force:
        update(architecture)
    rom_dirs(architecture)
    return 0


def install(
    flavour: Flavour,
    version: str | None = None,
    *,
    source: Path | None = None,
    tuning: str | None = None,
    force: bool = False,
    style: Style = Style.AUTO,
    train: Callable[[Path], None] | None = None,
    architecture: Architecture = DEFAULT_ARCHITECTURE,
) -> Path:
    """Return the folder of the finished build, making it first if need be.  Raise BuildError.

    It is what this package carries, unless another version, another source, a tuning or a fresh
    build is asked for.  ``train`` runs a QEMU for a profile, without which PGO has none.
    """
    asked, tuned = asked_version(version), asked_tuning(tuning)
    carried = _carried(asked, tuned, architecture)
    if carried is not None and flavour is Flavour.PATCHED and source is None and not force:
        return carried
    chosen = Source.at(source) if source else None if force else choice(asked)
    if chosen is not None and not force:
        found = find(flavour, chosen, asked, tuned, architecture)
        if found is not None:
            if source:
                remember(chosen, asked, found)
            return found
    from cvmlab.qemu.compile import compile_qemu  # apt, ninja and all that are for this case only

    return compile_qemu(
        flavour, asked, chosen, architecture, asked=tuned, force=force, style=style, train=train
    )


def _carried(
    asked: QemuVersion | None, tuned: Tuning | None, architecture: Architecture
) -> Path | None:
    """Return the folder of the QEMU in this package, if it has one and that is what was asked.

    A package carries that of the default architecture only (wheel.py).
    """
    carried = bundle_dir() if architecture is DEFAULT_ARCHITECTURE else None
    if carried is None or (asked is None and tuned is None):
        return carried
    record = build_record(carried) or {}
    of_version = asked is None or str(record.get("version", "")).startswith(asked.prefix)
    return carried if of_version and tuned in (None, record.get("tuning")) else None


def _carried_or_built(
    name: str, version: str | None, architecture: Architecture, *, build: bool
) -> Path:
    carried = _carried(asked_version(version), asked_tuning(None), architecture)
    if carried is not None:
        return carried / "bin" / name
    return _program(name, Flavour.PATCHED, version, architecture, build=build)


def _program(
    name: str,
    flavour: Flavour,
    version: str | None,
    architecture: Architecture = DEFAULT_ARCHITECTURE,
    *,
    tuning: str | None = None,
    build: bool,
) -> Path:
    if build:
        return install(flavour, version, tuning=tuning, architecture=architecture) / "bin" / name
    asked, tuned = asked_version(version), asked_tuning(tuning)
    chosen = choice(asked)
    found = find(flavour, chosen, asked, tuned, architecture) if chosen else None
    if found is None:
        which = f" {asked.name}" if asked else ""
        words = f" --qemu-version{which}" if asked else ""
        words += " --stock" if flavour is Flavour.STOCK else ""
        words += " --pgo" if tuned is Tuning.PGO else ""
        if architecture is not DEFAULT_ARCHITECTURE:
            which, words = f"{which} for {architecture.name}", f"{words} --arch {architecture.name}"
        raise BuildError(f"QEMU{which} is not built yet", hint=f"run `cvmlab build{words}`")
    return found / "bin" / name
