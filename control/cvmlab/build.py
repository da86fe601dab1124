# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU with the plugin in it: built once, and found again by what it was built from.

Under ``$XDG_CACHE_HOME/cvmlab/qemu``::

    <hash>/bin/qemu-system-x86_64, qemu-img, qemu-io     a finished build
    <hash>/build.json                                    what it was built from
    work-<flavour>-<hash>/{src,build}                    kept in a checkout: the next is incremental
    source.json                                          the source that was chosen last
    ccache/, lock, build-<flavour>.log

A wheel that carries QEMU (wheel.py) needs none of it: what it carries is taken first.  A finished build appears by one rename, so whoever sees it sees all of it.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from cvmlab.errors import BuildError
from cvmlab.firmware import ovmf, rom_dirs, update
from cvmlab.progress import Style
from cvmlab.qemu_recipe import PROGRAMS, Flavour, choice, find, program_version, remember
from cvmlab.qemu_source import Source
from cvmlab.resources import bundle_dir


__all__ = ["identity", "main", "ovmf", "qemu_binary", "qemu_img", "rom_dirs", "stock_qemu_binary"]


def qemu_binary(*, build: bool = True) -> Path:
    """Return the patched QEMU: CVMLAB_QEMU, or the package's own, or the one built here.

    It is built first if need be.

    Raise BuildError if it is missing and ``build`` is False, or if it cannot be built.
    """
    named = os.environ.get("CVMLAB_QEMU")
    return Path(named) if named else _carried_or_built("qemu-system-x86_64", build=build)


def stock_qemu_binary(*, build: bool = True) -> Path:
    """Return the unpatched QEMU of the same source and options; CVMLAB_STOCK_QEMU overrides."""
    named = os.environ.get("CVMLAB_STOCK_QEMU")
    return Path(named) if named else _program("qemu-system-x86_64", Flavour.STOCK, build=build)


def qemu_img(*, build: bool = True) -> Path:
    """Return qemu-img: the one beside CVMLAB_QEMU if that has one, else ours."""
    named = os.environ.get("CVMLAB_QEMU")
    if named and (beside := Path(named).with_name("qemu-img")).is_file():
        return beside
    return _carried_or_built("qemu-img", build=build)


def identity() -> dict[str, str]:
    """Return ``version`` and ``patch_hash`` of the QEMU that qemu_binary() returns.

    A QEMU named by CVMLAB_QEMU that cvmlab did not build has an empty patch hash.
    """
    binary = qemu_binary(build=False)
    record = binary.parent.parent / "build.json"
    if record.is_file():
        document: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        return {"version": document["version"], "patch_hash": document["patch_hash"]}
    return {"version": program_version(binary), "patch_hash": ""}


def main(
    *,
    qemu_source: Path | None = None,
    stock: bool = False,
    force: bool = False,
    style: Style = Style.AUTO,
) -> int:
    """Build as `cvmlab build` does; print where the result is; return the exit code."""
    flavour = Flavour.STOCK if stock else Flavour.PATCHED
    installed = install(flavour, source=qemu_source, force=force, style=style)
    sys.stdout.write(f"{installed / 'bin' / PROGRAMS[0]}\n")
    if force:
        update()
    rom_dirs()
    return 0


def install(
    flavour: Flavour,
    *,
    source: Path | None = None,
    force: bool = False,
    style: Style = Style.AUTO,
) -> Path:
    """Return the folder of the finished build, making it first if need be.  Raise BuildError.

    It is what this package carries, unless another source or a fresh build is asked for.
    """
    carried = bundle_dir()
    if carried is not None and flavour is Flavour.PATCHED and source is None and not force:
        return carried
    chosen = Source.at(source) if source else None if force else choice()
    if chosen is not None and not force:
        found = find(flavour, chosen)
        if found is not None:
            if source:
                remember(chosen)
            return found
    from cvmlab.compile import compile_qemu  # apt, ninja and all that are for this case only

    return compile_qemu(flavour, chosen, force=force, style=style)


def _carried_or_built(name: str, *, build: bool) -> Path:
    carried = bundle_dir()
    return carried / "bin" / name if carried else _program(name, Flavour.PATCHED, build=build)


def _program(name: str, flavour: Flavour, *, build: bool) -> Path:
    if build:
        return install(flavour) / "bin" / name
    chosen = choice()
    found = find(flavour, chosen) if chosen else None
    if found is None:
        stock = " --stock" if flavour is Flavour.STOCK else ""
        raise BuildError("QEMU is not built yet", hint=f"run `cvmlab build{stock}`")
    return found / "bin" / name
