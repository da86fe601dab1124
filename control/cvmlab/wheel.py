# SPDX-License-Identifier: GPL-2.0-or-later
"""A wheel that carries QEMU: `pip install` of it alone boots guests, with nothing built or fetched.

In it, beside the package::

    cvmlab/_bundle/build.json              what QEMU was built from
    cvmlab/_bundle/bin, lib                QEMU, qemu-img; the libraries a bare machine may not have
    cvmlab/_bundle/share                   SeaBIOS, OVMF, option ROMs
    cvmlab/_bundle/licenses, SOURCES.md    the terms of each, and where its source is

glibc is the machine's own.  The wheel's tag says how new it has to be: what the programs and
libraries in it really ask for.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from cvmlab import apt, wheelfile
from cvmlab.build import install
from cvmlab.elf import GLIBC, Needs
from cvmlab.errors import BuildError
from cvmlab.firmware import rom_dirs
from cvmlab.paths import cache_dir, checkout_dir
from cvmlab.progress import Phase, Style, task
from cvmlab.qemu_recipe import Flavour
from cvmlab.steps import Steps
from cvmlab.wheelsources import licences, sources_note


PROGRAMS = ("qemu-system-x86_64", "qemu-img")
BUNDLE = "cvmlab/_bundle"
# Of Debian's qemu-system-data: what an x86 machine of ours can load.
_ROMS = (
    "linuxboot*.bin", "multiboot*.bin", "pvh.bin", "kvmvapic.bin", "vof.bin",
    "efi-virtio.rom", "efi-e1000*.rom", "bios-256k.bin", "vgabios-stdvga.bin",
    "vgabios-ramfb.bin", "OVMF.fd",
)  # fmt: skip
_PIP_DEADLINE_S = 600.0
_TOOL_DEADLINE_S = 60.0
_PHASES = (Phase("the package", 20.0), Phase("libraries", 3.0), Phase("the wheel", 10.0))


def build_wheel(into: Path, *, style: Style = Style.AUTO) -> Path:
    """Build QEMU if need be, and write the wheel to the folder *into*; return its path.

    Raise BuildError if it cannot be made, or if this is no checkout to make it from.
    """
    root = checkout_dir()
    if root is None:
        raise BuildError(
            "a wheel is made from the repository, and this is an installed package",
            hint="run ./cvmlab build --wheel in a clone of it",
        )
    built = install(Flavour.PATCHED, style=style)
    apt.ensure([apt.Need.WHEEL], style=style)
    with (
        TemporaryDirectory(prefix="cvmlab-wheel-") as scratch,
        task("the wheel", _PHASES, style=style, stream=sys.stderr) as running,
    ):
        steps = Steps(log=cache_dir() / "wheel.log", tick=running.tick)
        running.enter(_PHASES[0].name)
        plain = _plain_wheel(root, Path(scratch, "plain"), steps)
        running.enter(_PHASES[1].name)
        bundle = Path(scratch, "bundle")
        tag = _fill(bundle, built, steps)
        running.enter(_PHASES[2].name)
        files = {
            f"{BUNDLE}/{path.relative_to(bundle)}": path
            for path in bundle.rglob("*")
            if path.is_file()
        }
        return wheelfile.extend(plain, files, tag, into)


def _plain_wheel(root: Path, into: Path, steps: Steps) -> Path:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "-w",
        into,
        root,
    ]
    steps.run(command, what="building the package", deadline_s=_PIP_DEADLINE_S)
    return next(into.glob("cvmlab-*.whl"))


def _fill(bundle: Path, built: Path, steps: Steps) -> str:
    """Make the bundle of the finished build *built*; return the tag of a wheel that has it in it."""
    programs = [_copy(built / "bin" / name, bundle / "bin") for name in PROGRAMS]
    origins = _libraries(programs)
    libraries = [_copy(path, bundle / "lib") for path in origins]
    for file, place in [
        *((p, "$ORIGIN/../lib") for p in programs),
        *((p, "$ORIGIN") for p in libraries),
    ]:
        steps.run(
            ["patchelf", "--set-rpath", place, file],
            what=f"patchelf {file.name}",
            deadline_s=_TOOL_DEADLINE_S,
        )
    for path in _roms(rom_dirs()):
        _copy(path, bundle / "share")
    record = json.loads((built / "build.json").read_text(encoding="utf-8"))
    # A path of this machine says nothing on another.
    record["source"]["path"] = Path(record["source"]["path"]).name
    (bundle / "build.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for name, text in licences(origins, rom_dirs()).items():
        (bundle / "licenses").mkdir(exist_ok=True)
        (bundle / "licenses" / name).write_text(text, encoding="utf-8")
    note = sources_note(record, origins, rom_dirs())
    (bundle / "SOURCES.md").write_text(note, encoding="utf-8")
    major, minor = max(Needs.of(file).glibc for file in (*programs, *libraries))
    return f"py3-none-manylinux_{major}_{minor}_{platform.machine()}"


def _copy(path: Path, into: Path) -> Path:
    into.mkdir(parents=True, exist_ok=True)
    target = into / path.name
    shutil.copy(path, target)  # what a link leads to, by the link's name
    if not target.stat().st_mode & 0o200:
        target.chmod(target.stat().st_mode | 0o200)
    return target


def _libraries(programs: Iterable[Path]) -> list[Path]:
    """Return the libraries that *programs* load here and that are not glibc's, each once."""
    found = {path.name: path for program in programs for path in _loaded(program)}
    return [found[name] for name in sorted(found)]


def _loaded(program: Path) -> Iterator[Path]:
    done = subprocess.run(
        ["ldd", os.fspath(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TOOL_DEADLINE_S,
    )
    if done.returncode:
        raise BuildError(f"ldd {program}: {done.stderr.strip()}")
    for line in done.stdout.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if not arrow or GLIBC.fullmatch(Path(name).name):
            continue
        path = Path(rest.partition(" (")[0])
        if not path.is_file():
            raise BuildError(f"{program} needs {name}, which is not here")
        yield path.with_name(name)


def _roms(folders: Iterable[Path]) -> Iterator[Path]:
    seen = set()
    for folder in folders:
        for pattern in _ROMS:
            for path in sorted(folder.glob(pattern)):
                if path.is_file() and path.name not in seen:
                    seen.add(path.name)
                    yield path
