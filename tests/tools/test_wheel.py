# SPDX-License-Identifier: GPL-2.0-or-later
"""The wheel that carries QEMU, installed where there is nothing else."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from cvmlab import images
from cvmlab.elf import Needs
from tests.tools import installed


pytestmark = pytest.mark.timeout(1500)
ROOT = Path(__file__).parents[2]
BOOT = ("boot", "--kernel", "vmlinuz", "--initrd", "initrd", "--exec", "true", "--max-faults", "0")


@dataclass(frozen=True, slots=True)
class Parcel:
    """All that is carried to the bare machine: one folder of wheels, a kernel, an initrd."""

    folder: Path

    @property
    def wheel(self) -> Path:
        return next(self.folder.glob("cvmlab-*.whl"))


@pytest.fixture(scope="module")
def parcel(tmp_path_factory: pytest.TempPathFactory) -> Parcel:
    folder = tmp_path_factory.mktemp("parcel")
    _run([sys.executable, "-m", "cvmlab", "build", "--wheel", str(folder)], environment={
        **os.environ, "PYTHONPATH": str(ROOT / "control"),
    })  # fmt: skip
    wheel = next(folder.glob("*.whl"))
    _run([sys.executable, "-m", "pip", "download", "-q", "-d", str(folder), str(wheel)])
    guest = images.resolve("debian")
    assert guest.initrd is not None
    shutil.copy(guest.kernel, folder / "vmlinuz")
    shutil.copy(guest.initrd, folder / "initrd")
    return Parcel(folder)


def _run(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    done = subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _judge(document: dict[str, Any]) -> None:
    assert (document["outcome"], document["emulated"]) == ("ok", True)
    assert document["qemu"]["patch"]
    assert document["pages"]["private"] > 0


def test_what_it_carries_runs_on_the_glibc_that_its_name_says(
    parcel: Parcel, tmp_path: Path
) -> None:
    with zipfile.ZipFile(parcel.wheel) as file:
        file.extractall(tmp_path)
        modes = {entry.filename: entry.external_attr >> 16 for entry in file.infolist()}
    bundle = tmp_path / "cvmlab" / "_bundle"
    carried = [*(bundle / "bin").iterdir(), *(bundle / "lib").iterdir()]
    needs = {path.name: Needs.of(path) for path in carried}
    major, minor = max(need.glibc for need in needs.values())
    assert f"-py3-none-manylinux_{major}_{minor}_" in parcel.wheel.name
    lacking = {name: need.beyond_glibc - needs.keys() for name, need in needs.items()}
    assert not any(lacking.values()), lacking
    assert "libglib-2.0.so.0" in needs["qemu-system-x86_64"].libraries
    assert modes["cvmlab/_bundle/bin/qemu-img"] & 0o111
    texts = {path.stem for path in (bundle / "licenses").iterdir()}
    assert {"GPL-2", "LGPL-2.1", "seabios", "ovmf"} < texts
    sources = (bundle / "SOURCES.md").read_text()
    assert all(path.name in sources for path in (bundle / "lib").iterdir())
    assert str(Path.home()) not in sources + (bundle / "build.json").read_text()


def _essential(tmp_path: Path) -> Path:
    """Return a folder for PATH that has the two programs that a boot asks of the machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, package in (("sh", "dash"), ("setpriv", "util-linux")):
        (folder / name).symlink_to(installed.require(name, package))
    return folder


@pytest.fixture
def short_home() -> Iterator[Path]:
    """An empty home whose path leaves room for that of a socket in it."""
    with TemporaryDirectory(prefix="home-") as folder:
        yield Path(folder)


def test_it_boots_from_an_empty_environment(
    parcel: Parcel, tmp_path: Path, short_home: Path
) -> None:
    """No compiler, no checkout, no cache, no apt, no network, nothing on PATH but itself, sh and setpriv."""
    base = Path(getattr(sys, "_base_executable", sys.executable))
    _run([str(base), "-m", "venv", str(tmp_path / "venv")])
    bin_ = tmp_path / "venv" / "bin"
    _run([str(bin_ / "pip"), "install", "-q", "--no-index", "--find-links", str(parcel.folder),
          str(parcel.wheel)])  # fmt: skip
    environment = {
        "HOME": str(short_home), "PATH": f"{bin_}:{_essential(tmp_path)}", "CVMLAB_NO_INSTALL": "1", "CVMLAB_OFFLINE": "1",
        "LANG": "C.UTF-8",
    }  # fmt: skip
    said = _run([str(bin_ / "cvmlab"), *BOOT, "--json", "-"], environment=environment,
                cwd=parcel.folder)  # fmt: skip
    _judge(json.loads(said))
    where = _run([str(bin_ / "cvmlab"), "build"], environment=environment).strip()
    assert Path(where).is_relative_to(tmp_path / "venv")
    assert not (short_home / ".cache" / "cvmlab" / "qemu").exists()
    examined = json.loads(_run([str(bin_ / "cvmlab"), "doctor", "--json"], environment=environment))
    assert examined["ok"], examined

    # The control: without what the wheel carries, nothing of this works.
    bundle = Path(where).parents[1]
    bundle.rename(bundle.with_name("away"))
    done = subprocess.run(
        [str(bin_ / "cvmlab"), *BOOT], env=environment, cwd=parcel.folder, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 85, done.stderr
    assert "hint:" in done.stderr


@pytest.fixture
def bare_debian(tmp_path: Path) -> Iterator[Path]:
    """A Debian with python3 and python3-venv, and nothing else that Debian does not insist on."""
    program = installed.require("mmdebstrap", "mmdebstrap")
    if os.geteuid() != 0:
        pytest.skip("chroot wants root or a user namespace")
    release = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line
    )
    suite = release.get("VERSION_CODENAME", "")
    if release.get("ID") != "debian" or sys.version_info[:2] != _PYTHON_OF.get(suite):
        pytest.skip("wheels for this Python install in no chroot of this machine's user namespace")
    root = tmp_path / "root"
    _run([program, "--variant=minbase", "--include=python3-venv", suite, str(root)])
    yield root
    shutil.rmtree(root)


_PYTHON_OF = {"bookworm": (3, 11), "trixie": (3, 13)}


def test_it_boots_in_a_bare_debian(parcel: Parcel, bare_debian: Path) -> None:
    """Where there is no glib and no pixman, and nothing could be compiled."""
    shutil.copytree(parcel.folder, bare_debian / "parcel")
    assert not list(bare_debian.rglob("libglib-2.0*"))
    script = (
        "mount -t proc proc /proc && python3 -m venv /v && cd /parcel"
        " && /v/bin/pip install -q --no-index --find-links . ./cvmlab-*.whl"
        f" && exec /v/bin/cvmlab {' '.join(BOOT)} --json result.json"
    )
    environment = {
        "HOME": "/home", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8",
        "CVMLAB_NO_INSTALL": "1", "CVMLAB_OFFLINE": "1",
    }  # fmt: skip
    inside = ["unshare", "--mount", "--fork", "--pid", "chroot", str(bare_debian), "sh", "-c"]
    _run([*inside, script], environment=environment)
    _judge(json.loads((bare_debian / "parcel" / "result.json").read_text()))
