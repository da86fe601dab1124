# SPDX-License-Identifier: GPL-2.0-or-later
"""Arm64 kernels, fabricated: unpacked for QEMU, and read through their own tables and relocations."""

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from cvmlab.base.errors import ImageError
from cvmlab.images.kernel_image import identify
from cvmlab.images.symbols import from_elf
from cvmlab.images.vmlinux import extract_vmlinux, started_kernel
from cvmlab.profiles.architecture import AARCH64, X86_64
from tests.fakes.kallsyms_tables import Layout, entries, image
from tests.fakes.kernel_files import arm64_image, bzimage, relocation, zboot


Save = Callable[[bytes], Path]

LINKED = 0xFFFF_8000_8000_0000
TABLES_AT = 0x1000
PLAIN = arm64_image(b"code" * 5000, "6.12.1")
PACKED = {
    "gzip": gzip.compress(PLAIN, mtime=0),
    "zboot, gzip": zboot(gzip.compress(PLAIN, mtime=0)),
    "zboot, zstd": zboot(zstandard.compress(PLAIN)),
    "zboot, xz": zboot(lzma.compress(PLAIN)),
}


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Save:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(data: bytes) -> Path:
        path = tmp_path / "kernel"
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("name", PACKED)
def test_qemu_gets_the_plain_image_whatever_its_compression(save: Save, name: str) -> None:
    packed = save(PACKED[name])
    started = started_kernel(packed, AARCH64)
    assert started.read_bytes() == PLAIN
    assert identify(started).release == "6.12.1"
    assert started_kernel(packed, AARCH64) == started  # from the cache


def test_what_qemu_starts_by_itself_stays_where_it_is(save: Save) -> None:
    plain = save(PLAIN)
    assert started_kernel(plain, AARCH64) == plain
    pc = save(bzimage())
    assert started_kernel(pc, X86_64) == pc


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (zboot(gzip.compress(b"no kernel", mtime=0)), "the kernel inside .* is damaged"),
        (zboot(gzip.compress(PLAIN, mtime=0)[:100]), "the kernel inside .* is damaged"),
        (zboot(gzip.compress(PLAIN, mtime=0))[:-1], "is cut short"),
        (zboot(b"unheard of"), "has an unknown compression"),
        (zboot(b""), "is cut short"),
    ],
)
def test_a_damaged_kernel_is_an_error_of_the_image(save: Save, data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        started_kernel(save(data), AARCH64)


def kernel(layout: Layout, *, moved: bool = True) -> bytes:
    """Return an Image with the tables of *layout*; a relocation fills in what the tables count from."""
    text, rodata = LINKED + 0x1_0000, LINKED + TABLES_AT
    plain = image(layout, text, rodata)
    tables = image(layout, text, rodata, base=0)
    base_at = next((at for at in range(len(plain)) if plain[at] != tables[at]), None)
    own = b"".join((text + 8 * n).to_bytes(8, "little") for n in range(20))
    relocations = own if moved else b""
    if moved and base_at is not None:
        relocations += relocation(LINKED + TABLES_AT + base_at // 8 * 8, text)
    body = tables + bytes(-len(tables) % 8) + relocations
    return arm64_image(body, "6.12.1")


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda data: zboot(gzip.compress(data))])
def test_the_functions_of_an_arm64_kernel_have_names(
    save: Save, layout: Layout, pack: Callable[[bytes], bytes]
) -> None:
    symbols = from_elf(extract_vmlinux(save(pack(kernel(layout)))))
    expected = entries(layout, LINKED + 0x1_0000)
    start = next(entry.address for entry in expected if entry.name == "Tstart_kernel")
    assert symbols.address_of("start_kernel") == start
    assert symbols.resolve(start + 0x12) == "start_kernel+0x12"


def test_without_addresses_of_its_own_nobody_knows_where_it_runs(save: Save) -> None:
    with pytest.raises(ImageError, match="it has few addresses of its own") as caught:
        extract_vmlinux(save(kernel(Layout.V6_12, moved=False)))
    assert caught.value.hint == "give its System.map or vmlinux with --symbols"


def test_a_relocation_outside_of_the_image_is_left_out(save: Save) -> None:
    far = b"".join(relocation(LINKED + (1 << 30), LINKED + n) for n in range(20))
    modules = AARCH64.symbols.kernel_space.to_bytes(8, "little")
    body = relocation(LINKED + 0x8, LINKED) + far + modules
    found = extract_vmlinux(save(arm64_image(body)))
    assert found[24:32] == LINKED.to_bytes(8, "little")  # where the segment is in memory
    assert found[4096 + 8 : 4096 + 16] == LINKED.to_bytes(8, "little")
