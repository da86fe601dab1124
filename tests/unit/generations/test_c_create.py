# SPDX-License-Identifier: GPL-2.0-or-later
"""memfd_restricted(): its arguments in order, from a table of mounts and from real ones."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cvmlab.generations.faults import FaultKind, FaultPlan, PlannedFault
from cvmlab.generations.files.mounts import HostMounts, MountFacts
from cvmlab.generations.refusal import Refusal
from cvmlab.generations.restrictedmem import NoexecCheck, RestrictedKernel
from tests.unit.generations.namespaces import in_own_mounts, mount_tmpfs
from tests.unit.generations.support import M2, PG, refused


GOOD = MountFacts("", noexec_mount=True)
OTHER_MAGIC = 0xEF53


class MountTable:
    """Descriptor numbers of a test and their mounts."""

    def __init__(self, *mounts: MountFacts) -> None:
        self._mounts = dict(enumerate(mounts))

    def facts(self, fd: int) -> MountFacts | None:
        return self._mounts.get(fd)


def kernel(mount: MountFacts = GOOD, version: str = "S000", **rest: object) -> RestrictedKernel:
    return RestrictedKernel(version=version, mounts=MountTable(mount), **rest)  # type: ignore[arg-type]


MISTAKES = {
    "C1S3": (replace(GOOD, is_root=False), "EINVAL"),
    "C1S4": (replace(GOOD, whole=False), "EINVAL"),
    "C1S5": (replace(GOOD, noexec_mount=False), "EINVAL"),
    "C1S6": (replace(GOOD, magic=OTHER_MAGIC), "EINVAL"),
    "C1S7": (replace(GOOD, read_only=True), "EROFS"),
}


def test_c1s1_c1s2_flags_come_before_the_descriptor() -> None:
    with refused("EINVAL", "C1S1"):
        kernel().memfd_restricted(1, -2)
    with refused("EBADF", "C1S2"):
        kernel().memfd_restricted(0, -2)


@pytest.mark.parametrize("entry", MISTAKES)
def test_a_wrong_mount_is_refused(entry: str) -> None:
    mount, errno = MISTAKES[entry]
    with refused(errno, entry):
        kernel(mount).memfd_restricted(0, 0)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        pytest.param({"is_root": False}, {"whole": False}, id="C1S3-C1S4"),
        pytest.param({"whole": False}, {"noexec_mount": False}, id="C1S4-C1S5"),
        pytest.param({"noexec_mount": False}, {"magic": OTHER_MAGIC}, id="C1S5-C1S6"),
        pytest.param({"magic": OTHER_MAGIC}, {"read_only": True}, id="C1S6-C1S7"),
    ],
)
def test_the_earlier_check_of_the_mount_wins(
    earlier: dict[str, object], later: dict[str, object]
) -> None:
    with pytest.raises(Refusal) as alone:
        kernel(replace(GOOD, **earlier)).memfd_restricted(0, 0)  # type: ignore[arg-type]
    with pytest.raises(Refusal) as both:
        kernel(replace(GOOD, **(earlier | later))).memfd_restricted(0, 0)  # type: ignore[arg-type]
    assert alone.value.entry == both.value.entry


def test_c1s8_descriptors_memory_and_a_taken_backing() -> None:
    crowded = kernel()
    crowded.descriptors_left = 0
    with refused("EMFILE", "C1S8"):
        crowded.memfd_restricted(0, 0)
    with refused("ENOMEM", "C1S8"):
        kernel(faults=FaultPlan([PlannedFault(FaultKind.NO_MEMORY)])).memfd_restricted(0, 0)
    taken = kernel()
    taken.backing_taken = True
    with refused("EEXIST", "C1S8"):
        taken.memfd_restricted(0, 0)
    fd = kernel().memfd_restricted(0, 0)
    assert not fd.cloexec
    assert fd.stat().size == 0
    fd.close()


@pytest.mark.parametrize(
    ("version", "flags", "mount_fd", "errno"),
    [
        pytest.param("mount-rfc", 0, -1, None, id="C1S2-mount ignored without the flag"),
        pytest.param("mount-rfc", 1, -2, "EBADF", id="C1S2-with the flag"),
        pytest.param("mount-rfc", 2, 0, "EINVAL", id="C1S1-other flag"),
        pytest.param("v10", 0, -1, None, id="C1S1-v10 has one argument"),
        pytest.param("v10", 1, -1, "EINVAL", id="C1S1-v10 flags"),
    ],
)
def test_other_versions_take_other_arguments(
    version: str, flags: int, mount_fd: int, errno: str | None
) -> None:
    if errno:
        with refused(errno):
            kernel(version=version).memfd_restricted(flags, mount_fd)
    else:
        kernel(version=version).memfd_restricted(flags, mount_fd).close()


def test_c1s5_the_mount_rfc_does_not_ask_for_noexec() -> None:
    mount = replace(GOOD, noexec_mount=False)
    kernel(mount, "mount-rfc").memfd_restricted(1, 0).close()


def test_cq1_as_posted_a_users_noexec_mount_is_not_enough() -> None:
    with refused("EINVAL", "C1S5"):
        kernel(quirks=["noexec-superblock"]).memfd_restricted(0, 0)
    superblock = replace(GOOD, noexec_superblock=True)
    kernel(superblock, quirks=["noexec-superblock"]).memfd_restricted(0, 0).close()
    lenient = kernel(replace(GOOD, noexec_mount=False))
    lenient.noexec_check = NoexecCheck.OFF
    lenient.memfd_restricted(0, 0).close()


def test_c1p_by_path() -> None:
    by_path = RestrictedKernel(version="path-rfc")
    with refused("EINVAL", "C1P"):
        by_path.memfd_restricted_at(None)
    with refused("ENOENT", "C1P"):
        by_path.memfd_restricted_at("/dev/shm/cvmlab-not-there")
    with refused("EINVAL", "C1P"):
        by_path.memfd_restricted_at("/proc")


def test_c1p_a_subfolder_will_do(tmp_path: Path) -> None:
    def action() -> object:
        point = str(tmp_path / "mount")
        mount_tmpfs(point, "size=1m")
        (Path(point) / "sub").mkdir()
        fd = RestrictedKernel(version="path-rfc").memfd_restricted_at(f"{point}/sub")
        fd.close()
        return "made"

    assert in_own_mounts(action) == "made"


def attempt(path: str, flags: int = os.O_PATH) -> str:
    """Try with a real descriptor of *path*; return the entry that refuses, or 'made'."""
    mount_fd = os.open(path, flags)
    try:
        RestrictedKernel().memfd_restricted(0, mount_fd).close()
    except Refusal as refusal:
        return refusal.entry
    finally:
        os.close(mount_fd)
    return "made"


def test_c1s3_c1s4_c1s6_c1s7_real_mounts(tmp_path: Path) -> None:
    def action() -> object:
        good, bound = str(tmp_path / "good"), str(tmp_path / "bound")
        mount_tmpfs(good, "size=1m,noexec")
        (Path(good) / "sub").mkdir()
        (Path(good) / "sub" / "file").touch()
        Path(bound).mkdir()
        found = {
            "root": attempt(good),
            "root, readable": attempt(good, os.O_RDONLY),
            "folder": attempt(f"{good}/sub"),
            "file": attempt(f"{good}/sub/file"),
        }
        subprocess.run(["mount", "--bind", f"{good}/sub", bound], check=True)
        found["bind of a part"] = attempt(bound)
        found["not tmpfs"] = attempt("/proc")
        subprocess.run(["mount", "-o", "remount,ro,bind", good], check=True)
        found["read-only mount"] = attempt(good)
        subprocess.run(["mount", "-o", "remount,rw,exec", good], check=True)
        found["executable"] = attempt(good)
        return found

    found = in_own_mounts(action)
    assert isinstance(found, dict)
    assert found.pop("not tmpfs") in ("C1S5", "C1S6")
    assert found == {
        "root": "made",
        "root, readable": "made",
        "folder": "C1S3",
        "file": "C1S3",
        "bind of a part": "C1S4",
        "read-only mount": "C1S7",
        "executable": "C1S5",
    }


def test_c1s3_standard_output_is_no_mount() -> None:
    read_end, write_end = os.pipe()
    facts = HostMounts().facts(read_end)
    assert facts is not None
    assert not facts.is_root
    os.close(read_end)
    os.close(write_end)
    assert HostMounts().facts(-2) is None


def test_c06_c31_the_file_lives_in_the_mount_and_holds_it(tmp_path: Path) -> None:
    def action() -> object:
        point = str(tmp_path / "huge")
        mount_tmpfs(point, "size=8m,noexec,huge=always")
        mount_fd = os.open(point, os.O_PATH)
        fd = RestrictedKernel().memfd_restricted(0, mount_fd)
        os.close(mount_fd)
        fd.fallocate(0, 0, M2)
        used = os.statvfs(point)
        busy = subprocess.run(["umount", point], capture_output=True, check=False).returncode
        real = os.fstat(fd.fileno()).st_blksize
        claimed = fd.stat().blksize
        taken = (used.f_blocks - used.f_bfree) * used.f_bsize
        fd.close()
        free = subprocess.run(["umount", point], capture_output=True, check=False).returncode
        return {"busy": busy != 0, "free": free == 0, "taken": taken, "blksize": [real, claimed]}

    found = in_own_mounts(action)
    assert found == {"busy": True, "free": True, "taken": M2, "blksize": [M2, M2]}


@pytest.mark.parametrize("huge", [False, True], ids=["C06-never", "C06-always"])
def test_the_block_size_without_a_mount_follows_shmem_enabled(*, huge: bool) -> None:
    made = kernel(version="v10")
    made.shmem_huge = huge
    fd = made.memfd_restricted()
    assert fd.stat().blksize == (M2 if huge else PG)
    fd.close()
