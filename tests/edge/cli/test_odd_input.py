# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever a user or a peer gives is input: it ends in one sentence and 85, never as a defect."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cvmlab.cli import main
from cvmlab.publish import mqtt
from tests.fakes import journals as make
from tests.fakes import kernel_files
from tests.fakes.plan import Plan
from tests.fakes.watched import FakeWatched


DEEP = "[" * 100_000
Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that is refused; return the sentence."""

    def run(*words: object) -> str:
        assert main([str(word) for word in words]) == 85
        lines = capsys.readouterr().err.splitlines()
        assert 1 <= len(lines) <= 2
        assert lines[0].startswith("cvmlab: ")
        return lines[0].removeprefix("cvmlab: ")

    return run


@pytest.mark.fault("U5")
def test_nested_json_is_no_defect(refused: Refused, tmp_path: Path) -> None:
    assert refused("qmp", "vm", "stop", DEEP).startswith("the arguments are not JSON")
    document = tmp_path / "m.toml"
    document.write_text(f"x = {DEEP}")
    assert "is not TOML" in refused("matrix", document)
    (tmp_path / "base.json").write_text(DEEP)
    assert "is neither JSON nor TOML" in refused("baseline", "check", tmp_path / "base.json", "x")
    (tmp_path / "result.json").write_text(DEEP)
    assert "not a result" in refused(
        "baseline", "update", tmp_path / "b.json", tmp_path / "result.json"
    )
    (tmp_path / "result.json").write_bytes(b"\xff")
    assert "not a result" in refused(
        "baseline", "update", tmp_path / "b.json", tmp_path / "result.json"
    )
    folder = make.run_folder(tmp_path / "run", make.small())
    (folder / "names.json").write_text(DEEP)
    assert "names.json is damaged" in refused("report", folder)
    (folder / "vm.json").write_text(DEEP)
    assert "is running" in refused("query", f"{folder}/")


@pytest.mark.fault("U5")
@pytest.mark.parametrize("port", ["99999", "-1", "http"])
def test_a_port_that_is_none_is_refused(refused: Refused, port: str) -> None:
    assert "--metrics" in refused("serve", "--metrics", port)


@pytest.mark.fault("U5")
async def test_a_command_by_mqtt_that_makes_no_sense_is_answered(tmp_path: Path) -> None:
    vm = FakeWatched(tmp_path)
    for payload in (DEEP.encode(), b"\xff", b"[1]", b'{"ranges": [[]]}'):
        answer = await mqtt._answer(vm, "convert", payload)
        assert answer["ok"] is False
        assert answer["error"]
    assert (await mqtt._answer(vm, "pause", b""))["ok"] is True


def cvmlab(script: str, *words: object, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run cvmlab by a line of shell, in which it is "$@"; return its status and its output."""
    given = [os.fsencode(str(word)) for word in words]
    command = [
        *map(os.fsencode, ("sh", "-c", script, "sh", sys.executable, "-m", "cvmlab")),
        *given,
    ]
    done = subprocess.run(
        command, capture_output=True, check=False, timeout=60, env=os.environ | (env or {})
    )
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


@pytest.mark.fault("U5")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_defect(tmp_path: Path, closed: str) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    assert cvmlab(f'"$@" {closed}', "query", "nobody", env=env)[0] == 85
    assert cvmlab(f'"$@" {closed}', "ps", env=env)[0] == 0


@pytest.mark.fault("U5")
def test_a_path_that_is_not_utf8_works(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"k\xff")
    odd.mkdir()
    kernel, disk = odd / "kernel", odd / "disk.img"
    kernel.write_bytes(kernel_files.elf({".note.pvh": kernel_files.pvh_note(0x1000)}))
    disk.write_bytes(bytes(512))
    qemu = Plan(boot=({"phase": 1}, {"shutdown": "guest-shutdown"})).install(tmp_path / "fake")
    made = [f"--{name}={tmp_path / name}" for name in ("json", "junit", "html", "trace")]
    words = ["boot", "-k", kernel, "--disk", disk, "--memory", "64M", "--qemu", qemu, *made]
    env = {"XDG_STATE_HOME": str(tmp_path / "s"), "CVMLAB_ROM_DIRS": str(tmp_path)}
    status, said = cvmlab('"$@"', *words, "--run-dir", odd / "run", env=env)

    assert status == 0, said
    command = json.loads((tmp_path / "json").read_text())["command"]
    assert any(word.endswith("/k\\xff/kernel") for word in command)
    assert cvmlab('"$@"', *words, "--dry-run", env=env)[0] == 0
    status, said = cvmlab('"$@"', "boot", "-k", odd / "none", env=env)
    assert (status, "k\\xff/none" in said) == (85, True)


@pytest.mark.fault("U5")
def test_a_warm_cache_may_be_read_only(tmp_path: Path) -> None:
    """A bind mount in a name space of its own; where that is not allowed there is nothing to see."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    program = (
        "from cvmlab.debian import cache\n"
        "print(cache.kept('initrd', '.cpio', ['a'], lambda path: path.write_bytes(b'x'), keep=4))\n"
    )
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    warm = [sys.executable, "-c", program]
    first = subprocess.run(warm, capture_output=True, check=True, timeout=30, env=env)
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" || exit 99; exec "$@"'
    again = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, str(tmp_path), *warm],
        capture_output=True, check=False, timeout=30, env=env,
    )  # fmt: skip
    if again.returncode in (1, 99) and b"Traceback" not in again.stderr:
        pytest.skip("no mount name space here")
    assert (again.returncode, again.stdout) == (0, first.stdout), again.stderr


@pytest.mark.fault("U6")
@pytest.mark.parametrize("option", ["--kernel", "--initrd", "--symbols", "--disk", "--firmware"])
def test_a_pipe_or_device_is_not_read(refused: Refused, tmp_path: Path, option: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, kind in ((pipe, "a pipe"), (Path("/dev/zero"), "a device")):
        told = refused("boot", "--coco", "off", option, path, "--dry-run")
        assert told == f"{option}: {path} is not a file but {kind}"


@pytest.mark.fault("U6")
def test_a_device_is_no_document(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (("matrix",), ("baseline", "update", "b.json"), ("baseline", "check", "b.json")):
        if words[-1] == "b.json":
            Path("b.json").write_text("{}")
        assert refused(*words, "/dev/zero").endswith("/dev/zero is a device, and has no end")


@pytest.mark.fault("U6")
@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"\x8a\x01random", b"a line of text\n"])
def test_symbols_that_are_none_are_refused(
    refused: Refused, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "symbols"
    path.write_bytes(content)
    told = refused("boot", "--symbols", path, "--dry-run")
    assert told == f"{path} has no symbols: it is neither an ELF file nor a System.map"
