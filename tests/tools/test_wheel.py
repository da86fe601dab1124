# SPDX-License-Identifier: GPL-2.0-or-later
"""The wheel that carries QEMU, installed where there is nothing else."""

import json
import os
import platform
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
from cvmlab.qemu.elf import Needs
from tests.tools import containerfile, installed


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
        "CVMLAB_QEMU_TUNING": "lto",  # one build, not three; a caller may ask for the profile
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
    """A Debian that has nothing but what Debian insists on; Python neither."""
    if not containerfile.can_enter():
        pytest.skip("this machine lets nobody mount in a namespace of its own, or chroot")
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    if sys.version_info[:2] != _PYTHON_OF.get(release):
        pytest.skip("the machine is no Debian with the Python that runs the tests")
    root = tmp_path / "root"
    containerfile.base(release, root)
    yield root
    shutil.rmtree(root)


_PYTHON_OF = {"bookworm": (3, 11), "trixie": (3, 13)}


def test_the_container_recipe_makes_something_that_boots(parcel: Parcel, bare_debian: Path) -> None:
    """Its last stage, step by step, in a chroot; then its entry point, as its user."""
    stage = containerfile.last_stage(ROOT / "Containerfile")
    root = bare_debian
    shutil.copytree(parcel.folder, root / "wheels")
    shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
    for command in containerfile.run_steps(stage):
        done = containerfile.inside(root, command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    carried = list(root.glob("opt/cvmlab/lib/python3*/site-packages/cvmlab/_bundle/lib/libglib*"))
    assert list(root.rglob("libglib-2.0*")) == carried != []
    for name in ("vmlinuz", "initrd"):
        shutil.copy(parcel.folder / name, root / "guest" / name)
        (root / "guest" / name).chmod(0o644)
    last = {step.name: step.text for step in stage}
    (program,) = json.loads(last["ENTRYPOINT"])
    variables = {**containerfile.environment(stage), "HOME": f"/home/{last['USER']}"}
    variables |= {"CVMLAB_NO_INSTALL": "1", "CVMLAB_OFFLINE": "1"}
    command = f"cd {last['WORKDIR']} && exec {program} {' '.join(BOOT)} --json result.json"
    done = containerfile.inside(root, command, user=last["USER"], variables=variables)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    _judge(json.loads((root / "guest" / "result.json").read_text()))
