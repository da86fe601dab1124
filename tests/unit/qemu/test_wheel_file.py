# SPDX-License-Identifier: GPL-2.0-or-later
"""Files are added to a wheel, and it stays a wheel."""

import base64
import csv
import hashlib
import zipfile
from pathlib import Path

import pytest

from cvmlab.base.errors import BuildError
from cvmlab.qemu.elf import Needs
from cvmlab.qemu.wheel_file import extend
from tests.fakes.kernel_files import elf


TAG = "py3-none-manylinux_2_36_x86_64"
INFO = "cvmlab-1.0.dist-info"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "cvmlab-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("cvmlab/__init__.py", "")
        file.writestr(
            f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{INFO}/RECORD", "stale")
    return path


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    return path


def test_every_file_is_in_the_record_with_its_hash(
    plain: Path, program: Path, tmp_path: Path
) -> None:
    made = extend(plain, {"cvmlab/_bundle/bin/x": program}, TAG, tmp_path / "out")
    assert made.name == f"cvmlab-1.0-{TAG}.whl"
    with zipfile.ZipFile(made) as file:
        record = list(csv.reader(file.read(f"{INFO}/RECORD").decode().splitlines()))
        assert [row[0] for row in record] == file.namelist()
        for name, digest, size in record[:-1]:
            content = file.read(name)
            sha = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            assert (digest, int(size)) == (f"sha256={sha}", len(content))
        assert record[-1] == [f"{INFO}/RECORD", "", ""]
        assert file.getinfo("cvmlab/_bundle/bin/x").external_attr >> 16 & 0o111
        assert not file.getinfo("cvmlab/__init__.py").external_attr >> 16 & 0o111
        wheel = file.read(f"{INFO}/WHEEL").decode().splitlines()
        assert wheel == ["Wheel-Version: 1.0", "Root-Is-Purelib: false", f"Tag: {TAG}"]


def test_the_same_input_gives_the_same_bytes(plain: Path, program: Path, tmp_path: Path) -> None:
    first, second = (
        extend(plain, {"cvmlab/_bundle/bin/x": program}, TAG, tmp_path / name) for name in "ab"
    )
    assert first.read_bytes() == second.read_bytes()


def test_a_file_of_the_package_is_not_replaced(plain: Path, program: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"cvmlab/__init__\.py already"):
        extend(plain, {"cvmlab/__init__.py": program}, TAG, tmp_path / "out")


def test_a_file_that_needs_nothing_and_one_that_is_no_elf(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(elf({".data": b"x"}))
    assert Needs.of(path) == Needs(frozenset(), (0, 0))
    path.write_bytes(b"#!/bin/sh\n")
    with pytest.raises(BuildError, match="is not a program or library"):
        Needs.of(path)


@pytest.mark.parametrize(
    ("name", "is_glibc"),
    [("libc.so.6", True), ("ld-linux-x86-64.so.2", True), ("libm.so.6", True),
     ("libcap-ng.so.0", False), ("libglib-2.0.so.0", False), ("libz.so.1", False)],
)  # fmt: skip
def test_only_glibc_is_left_to_the_machine(name: str, *, is_glibc: bool) -> None:
    assert (name not in Needs(frozenset({name}), (2, 36)).beyond_glibc) == is_glibc
