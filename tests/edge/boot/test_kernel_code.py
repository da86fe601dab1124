# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of a kernel's code is kept: a second boot does not read the kernel again."""

import os
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest

from cvmlab.base.errors import ImageError
from cvmlab.boot.kernel_code import (
    Arrays,
    KernelCode,
    code_in,
    stored_code,
    stored_symbols,
    symbols_in,
)
from cvmlab.images.symbol_file import function_names
from cvmlab.images.symbols import Symbol, Symbols
from cvmlab.profiles.architecture import X86_64
from cvmlab.unwind.code import Code
from tests.unit.unwind.test_real_kernel import kernel, since_6_4


START = 0xFFFFFFFF81000000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cvmlab"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinux"
    path.write_bytes(program("first"))
    return path


def program(name: str) -> bytes:
    known = Symbols.of([Symbol(START, name), Symbol(START + 64, "second")])
    return function_names(known, X86_64)


def test_the_second_reading_is_that_of_the_kept_file(image: Path) -> None:
    status = image.stat()
    assert KernelCode(image).symbols().resolve(START + 4) == "first+0x4"
    image.write_bytes(program("other"))
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))  # as if it were the same file
    again = KernelCode(image).symbols()
    assert again.resolve(START + 4) == "first+0x4"
    assert again.address_of("second") == START + 64
    assert again.resolve(START - 1) is None


def test_another_kernel_in_its_place_is_read(image: Path) -> None:
    KernelCode(image).symbols()
    image.write_bytes(program("changed"))
    assert KernelCode(image).symbols().resolve(START) == "changed+0x0"


def test_a_damaged_file_in_the_cache_costs_time_and_nothing_else(image: Path, cache: Path) -> None:
    KernelCode(image).symbols()
    (stored,) = (cache / "kernel-symbols").iterdir()
    for content in (b"", b"PK\x03\x04 and no more", stored.read_bytes()[:-40]):
        stored.write_bytes(content)
        assert KernelCode(image).symbols().resolve(START) == "first+0x0"


@pytest.mark.parametrize(
    "changed",
    [
        lambda arrays: {"addresses": arrays["addresses"]},
        lambda arrays: {**arrays, "addresses": arrays["addresses"][1:]},
        lambda arrays: {**arrays, "names": arrays["names"][:-1]},
    ],
    ids=["no names", "a name too many", "no end"],
)
def test_a_file_that_is_not_whole_is_a_damaged_one(
    changed: Callable[[Arrays], Arrays], image: Path, cache: Path
) -> None:
    KernelCode(image).symbols()
    (stored,) = (cache / "kernel-symbols").iterdir()
    with np.load(stored) as arrays:
        parts = changed(dict(arrays))
    with stored.open("wb") as file:
        np.savez(file, allow_pickle=False, **parts)
    assert KernelCode(image).symbols().resolve(START) == "first+0x0"


def test_code_that_is_not_whole_is_a_damaged_file(image: Path, cache: Path) -> None:
    whole = KernelCode(image).code()
    (stored,) = (cache / "kernel-code").iterdir()
    with np.load(stored) as arrays:
        parts = {**arrays, "bytes": np.zeros(7, np.uint8)}
    with stored.open("wb") as file:
        np.savez(file, allow_pickle=False, **parts)
    assert KernelCode(image).code() == whole


def test_a_cache_that_keeps_nothing_costs_time_and_nothing_else(image: Path, cache: Path) -> None:
    whole = KernelCode(image).code()
    rmtree(cache)
    cache.write_text("no folder")  # as full, or read-only
    assert KernelCode(image).symbols().resolve(START) == "first+0x0"
    assert KernelCode(image).code() == whole != Code()
    assert cache.read_text() == "no folder"


def test_any_name_is_kept() -> None:
    known = Symbols(np.array([1, 2, 3, 4], np.uint64), ("a\nb", None, "\n", "ä"))
    again = symbols_in(stored_symbols(known))
    assert again.names == known.names
    assert again.addresses.tolist() == known.addresses.tolist()
    assert symbols_in(stored_symbols(Symbols.of([]))).names == ()


def test_a_file_without_symbols_is_refused_each_time(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bytes(4096))
    for _ in range(2):
        with pytest.raises(ImageError):
            KernelCode(path).symbols()
        assert KernelCode(path).code() == Code()
    with pytest.raises(ImageError):
        KernelCode(tmp_path / "none").symbols()


def test_a_real_kernels_code_is_the_same_after_it_was_kept() -> None:
    real = kernel(since_6_4)
    assert real.orc is not None
    found = code_in(stored_code(real))
    assert found.parts == real.parts
    assert found.returns.tolist() == real.returns.tolist()
    assert found.orc is not None
    for address in real.orc.addresses.tolist():
        assert found.orc.find(address) == real.orc.find(address)
