# SPDX-License-Identifier: GPL-2.0-or-later
"""The initramfs: what is in it, that it repeats, and that it is cached whole or not at all."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError, ImageError
from cvmlab.base.paths import cache_dir
from cvmlab.base.resources import guest_images_dir
from cvmlab.images import initramfs
from cvmlab.images.kernel_modules import Module
from cvmlab.profiles.architecture import ARCHITECTURES, Architecture
from tests.fakes.cpio_reader import read_archive
from tests.fakes.kernel_files import module


_DEADLINE_S = 30


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_dir() / "initrd"


def _modules(tmp_path: Path) -> list[Module]:
    made = []
    for name in ("zeta", "alpha"):
        path = tmp_path / f"{name}.ko"
        path.write_bytes(module(name))
        made.append(Module(name, path))
    return made


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    modules = _modules(tmp_path)
    assert initramfs.build(b"busybox", modules) == initramfs.build(b"busybox", modules)


def test_it_has_what_the_kernel_and_init_need() -> None:
    found = read_archive(initramfs.build(b"busybox"))
    assert found["bin/busybox"].data == b"busybox"
    assert found["bin/sh"].data == b"busybox"
    assert found["dev/console"].device == (5, 1)
    for program in ("init", "bin/busybox", "bin/wait-for", "cvmlab/agent"):
        assert found[program].mode & 0o111
    assert "cvmlab/modules" not in found
    assert initramfs.EXEC_PATH not in found


def test_modules_are_listed_in_load_order_and_packed_as_elf(tmp_path: Path) -> None:
    found = read_archive(initramfs.build(b"", _modules(tmp_path)))
    listed = found["cvmlab/modules"].data.decode().splitlines()
    assert listed == ["/lib/modules/zeta.ko", "/lib/modules/alpha.ko"]
    assert all(found[path[1:]].data.startswith(b"\x7fELF") for path in listed)


def test_the_command_is_a_script_with_the_agent_that_runs_it() -> None:
    found = read_archive(initramfs.exec_segment("exit 7"))
    assert found[initramfs.EXEC_PATH].data == b"#!/bin/sh\nexit 7\n"
    assert found[initramfs.EXEC_PATH].mode == 0o100755
    assert found["cvmlab/agent"].mode == 0o100755


@pytest.mark.parametrize("row", list(ARCHITECTURES), ids=lambda row: row.name)
def test_the_agent_speaks_on_the_second_port_of_the_architecture(row: Architecture) -> None:
    built = read_archive(initramfs.build(b"", port=row.agent))
    added = read_archive(initramfs.exec_segment("true", port=row.agent))
    for script in (built["cvmlab/agent"].data, added["cvmlab/agent"].data):
        assert f"\nchannel=/dev/{row.agent}\n" in script.decode()


@pytest.mark.parametrize("command", ["", "  \n", "a\0b"])
def test_a_command_that_cannot_be_run_is_refused(command: str) -> None:
    with pytest.raises(ConfigError, match="the command to run"):
        initramfs.exec_segment(command)


@pytest.mark.parametrize("length", range(5))
def test_a_segment_starts_where_the_kernel_looks_for_it(length: int) -> None:
    segment = initramfs.exec_segment("true")
    joined = initramfs.append_segment(b"x" * length, segment)
    assert joined.index(segment) % 4 == 0
    assert joined[:length] == b"x" * length


def test_a_cached_initrd_is_not_made_again(cache: Path) -> None:
    made: list[bytes] = []

    def make() -> bytes:
        made.append(b"contents")
        return made[-1]

    first = initramfs.cached(["key"], make)
    assert initramfs.cached(["key"], make) == first
    assert (first.read_bytes(), len(made)) == (b"contents", 1)


def test_another_key_is_another_initrd(cache: Path) -> None:
    keys: list[list[bytes | str]] = [["ab", "c"], ["a", "bc"], ["abc"], [b"abc", ""]]
    paths = {initramfs.cached(key, lambda: b"") for key in keys}
    assert len(paths) == len(keys)


def test_making_it_at_the_same_time_leaves_one_whole_file(cache: Path) -> None:
    barrier = threading.Barrier(4)

    def make() -> bytes:
        barrier.wait(_DEADLINE_S)
        return b"x" * 100_000

    threads = [threading.Thread(target=lambda: initramfs.cached(["key"], make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (path,) = cache.iterdir()
    assert path.read_bytes() == b"x" * 100_000


def test_an_initrd_that_cannot_be_made_leaves_nothing(cache: Path) -> None:
    def fail() -> bytes:
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        initramfs.cached(["key"], fail)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file, not a folder")
    with pytest.raises(ImageError, match="cannot write to the cache"):
        initramfs.cached(["key"], lambda: b"")


def test_the_cache_forgets_what_was_not_used_for_longest(cache: Path) -> None:
    paths = [initramfs.cached([str(number)], lambda: b"") for number in range(64)]
    for age, path in enumerate(reversed(paths)):
        os.utime(path, (1000 - age, 1000 - age))
    initramfs.cached(["0"], lambda: b"")
    initramfs.cached(["one more"], lambda: b"")
    assert paths[0].exists()
    assert not paths[1].exists()
    assert all(path.exists() for path in paths[2:])


@pytest.mark.parametrize("script", ["init", "agent", "wait-for"])
def test_scripts_are_shell(script: str) -> None:
    path = guest_images_dir() / "initramfs" / script
    subprocess.run(["sh", "-n", str(path)], check=True, timeout=_DEADLINE_S)


def test_the_agent_passes_the_status_on_without_a_serial_port(tmp_path: Path) -> None:
    """On this machine /cvmlab/exec does not exist: there is nothing to run, which is success."""
    agent = guest_images_dir() / "initramfs" / "agent"
    text = agent.read_text().replace("/dev/ttyS1", str(tmp_path / "no-port"))
    done = subprocess.run(["sh", "-c", text], capture_output=True, timeout=_DEADLINE_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_wait_for_gives_up(tmp_path: Path) -> None:
    script = guest_images_dir() / "initramfs" / "wait-for"
    waited = [
        subprocess.run(
            ["sh", str(script), str(path), "0"],
            capture_output=True,
            timeout=_DEADLINE_S,
            check=False,
        ).returncode
        for path in (tmp_path, tmp_path / "missing")
    ]
    assert waited == [0, 1]
