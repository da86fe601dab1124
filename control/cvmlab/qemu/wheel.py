# SPDX-License-Identifier: GPL-2.0-or-later
"""A wheel that includes QEMU: after `pip install` it boots guests without building or fetching.

It adds to the package::

    cvmlab/_bundle/build.json              what QEMU was built from
    cvmlab/_bundle/bin, lib                QEMU, qemu-img; the libraries a bare machine may not have
    cvmlab/_bundle/share                   SeaBIOS, OVMF, option ROMs
    cvmlab/_bundle/licenses, SOURCES.md    the licence of each, and where its source is

glibc is the machine's own.  The wheel's tag names the oldest usable version, computed from the
programs and libraries in it.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from cvmlab.base.errors import BuildError
from cvmlab.base.paths import cache_dir, checkout_dir
from cvmlab.base.progress import Part, Style, task
from cvmlab.base.steps import Steps
from cvmlab.debian import apt
from cvmlab.profiles.architecture import DEFAULT_ARCHITECTURE
from cvmlab.qemu import wheel_file
from cvmlab.qemu.build import install
from cvmlab.qemu.elf import GLIBC, Needs
from cvmlab.qemu.firmware import rom_dirs
from cvmlab.qemu.recipe import Flavour
from cvmlab.qemu.tuning import Tuning, asked_tuning
from cvmlab.qemu.wheel_sources import licences, sources_note


PROGRAMS = (DEFAULT_ARCHITECTURE.qemu, "qemu-img")
BUNDLE = "cvmlab/_bundle"
# The files of Debian's qemu-system-data that an x86 machine can load.
_ROMS = (
    "linuxboot*.bin", "multiboot*.bin", "pvh.bin", "kvmvapic.bin", "vof.bin",
    "efi-virtio.rom", "efi-e1000*.rom", "bios-256k.bin", "vgabios-stdvga.bin",
    "vgabios-ramfb.bin", "OVMF.fd",
)  # fmt: skip
_PIP_DEADLINE_S = 600.0
_TOOL_DEADLINE_S = 60.0
_PHASES = (Part("the package", 20.0), Part("libraries", 3.0), Part("the wheel", 10.0))


def build_wheel(into: Path, *, train: Callable[[Path], None], style: Style = Style.AUTO) -> Path:
    """Build QEMU if need be, and write the wheel to the folder *into*; return its path.

    It is the fastest QEMU, unless CVMLAB_QEMU_TUNING says otherwise; *train* runs it for a profile.

    Raise BuildError if it cannot be made, or if cvmlab does not run from a checkout.
    """
    root = checkout_dir()
    if root is None:
        raise BuildError(
            "a wheel is built from the repository, and this is an installed package",
            hint="run ./cvmlab build --wheel in a clone of the repository",
        )
    if find_spec("pip") is None:
        raise BuildError(
            "a wheel is built by pip, and this Python has none",
            hint=f"run {sys.executable} -m ensurepip",
        )
    tuning = asked_tuning(None) or Tuning.PGO
    built = install(Flavour.PATCHED, tuning=tuning, train=train, style=style)
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
        return wheel_file.extend(plain, files, tag, into)


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
    """Make the bundle from the finished build *built*; return the tag for a wheel that includes it."""
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
    # A path of this machine means nothing on another.
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
    shutil.copy(path, target)  # of a link, the target's content under the link's name
    if not target.stat().st_mode & 0o200:
        target.chmod(target.stat().st_mode | 0o200)
    return target


def _libraries(programs: Iterable[Path]) -> list[Path]:
    """Return the libraries that *programs* load here, without those of glibc, each once."""
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
            raise BuildError(f"{program} needs {name}, which is not installed")
        yield path.with_name(name)


def _roms(folders: Iterable[Path]) -> Iterator[Path]:
    seen = set()
    for folder in folders:
        for pattern in _ROMS:
            for path in sorted(folder.glob(pattern)):
                if path.is_file() and path.name not in seen:
                    seen.add(path.name)
                    yield path
