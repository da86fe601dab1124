# SPDX-License-Identifier: GPL-2.0-or-later
import asyncio
import os
from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.vm.process import QemuProcess, describe_status, log_tail


def start(folder: Path, script: str, *fds: int) -> QemuProcess:
    return QemuProcess(["sh", "-c", script], pass_fds=fds, log_path=folder / "qemu.log")


@pytest.mark.parametrize("status", [0, 1, 84, 255])
async def test_the_exit_status_is_the_programs(tmp_path: Path, status: int) -> None:
    process = start(tmp_path, f"exit {status}")
    assert await process.wait() == status
    assert process.status == status
    assert process.kill() == status
    assert await process.terminate(timeout_s=1) == status


async def test_a_signal_is_a_negative_status(tmp_path: Path) -> None:
    process = start(tmp_path, "kill -SEGV $$")
    assert await process.wait_for(5) == -11


async def test_output_goes_to_the_log_and_input_is_empty(tmp_path: Path) -> None:
    process = start(tmp_path, "cat; seq 1 30; echo oops >&2")
    await process.wait()
    assert process.log_tail(3) == ["29", "30", "oops"]
    assert len(process.log_tail()) == 20
    assert log_tail(tmp_path / "none") == []


async def test_a_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x" * 100_000 + "\nlast")
    assert log_tail(tmp_path / "log", 1) == ["last"]


async def test_descriptors_keep_their_numbers_and_no_others_are_inherited(tmp_path: Path) -> None:
    read, write = os.pipe()
    secret = os.memfd_create("secret")
    try:
        process = start(tmp_path, f"echo hello > /proc/self/fd/{write}; ls -l /proc/self/fd", write)
        await process.wait()
        assert os.read(read, 10) == b"hello\n"
        assert "secret" not in "\n".join(process.log_tail())
    finally:
        for fd in (read, write, secret):
            os.close(fd)


async def test_it_leads_a_session_of_its_own_so_that_ctrl_c_is_ours(tmp_path: Path) -> None:
    process = start(tmp_path, "sleep 60")
    assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
    process.kill()


async def test_sigterm_comes_before_sigkill(tmp_path: Path) -> None:
    patient = start(tmp_path, "trap 'exit 5' TERM; echo up; sleep 60 & wait")
    await _says(patient, "up")
    assert await patient.terminate(timeout_s=5) == 5
    deaf = start(tmp_path, "trap '' TERM; echo deaf; sleep 60")
    await _says(deaf, "deaf")
    assert await deaf.terminate(timeout_s=0.05) == -9


async def _says(process: QemuProcess, word: str) -> None:
    async with asyncio.timeout(5):
        while word not in process.log_tail():  # noqa: ASYNC110 - a file has no events
            await asyncio.sleep(0.005)


async def test_kill_takes_the_whole_group(tmp_path: Path) -> None:
    read, write = os.pipe()
    process = start(tmp_path, "sleep 60 & wait", write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        process.kill()
        assert pipe.read() == b""  # ends only when the helper, which holds it too, is gone


async def test_what_is_no_program_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="/nowhere/qemu is not a program"):
        QemuProcess(["/nowhere/qemu"], pass_fds=(), log_path=tmp_path / "log")
    with pytest.raises(ConfigError, match="cannot be started: No such file or directory"):
        QemuProcess(["sh"], pass_fds=(), log_path=tmp_path / "none" / "log")


async def test_a_system_without_setpriv_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="setpriv is missing") as caught:
        QemuProcess(["sh"], pass_fds=(), log_path=tmp_path / "log")
    assert caught.value.hint == "install the package util-linux"


@pytest.mark.parametrize(
    ("status", "text"),
    [(0, "status 0"), (1, "status 1"), (-9, "signal 9 (SIGKILL)"), (-50, "signal 50")],
)
def test_a_status_in_words(status: int, text: str) -> None:
    assert describe_status(status) == text
