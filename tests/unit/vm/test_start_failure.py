# SPDX-License-Identifier: GPL-2.0-or-later
"""What QEMU refuses of its command line is the user's input; anything else is QEMU's failure."""

from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError, VmExited
from cvmlab.vm.process import QemuProcess
from cvmlab.vm.start_failure import start_failure


GDB = ("-gdb", "tcp:127.0.0.1:1234")
OBJECT = ("-object", "tdx-guest,id=cgs0,colour=red")


async def failure(folder: Path, words: tuple[str, ...], said: str, status: int = 1) -> Exception:
    script = f'echo "{said}" >&2; exit {status}'
    process = QemuProcess(["sh", "-c", script, *words], pass_fds=(), log_path=folder / "log")
    try:
        return await start_failure(process, 5.0, VmExited("the connection was closed"))
    finally:
        process.kill()


@pytest.mark.fault("V14")
@pytest.mark.parametrize(
    ("words", "said", "message"),
    [
        (
            GDB,
            "qemu: -gdb tcp:127.0.0.1:1234: Failed to find an available port: Address already in use",
            "--gdb: QEMU refuses -gdb tcp:127.0.0.1:1234: "
            "Failed to find an available port: Address already in use",
        ),
        (
            OBJECT,
            "qemu: -object tdx-guest,id=cgs0,colour=red: Property 'tdx-guest.colour' not found",
            "--coco-option: QEMU refuses -object tdx-guest,id=cgs0,colour=red: "
            "Property 'tdx-guest.colour' not found",
        ),
        (
            ("-bios", "x.fd"),
            "qemu: could not load PC BIOS 'x.fd'",
            "--firmware: QEMU could not load PC BIOS 'x.fd'",
        ),
        (
            ("-drive", "format=vmdk,file=a.vmdk", "-S"),
            "qemu: -drive format=vmdk,file=a.vmdk: Unknown driver 'vmdk'\nand a second line",
            "--disk: QEMU refuses -drive format=vmdk,file=a.vmdk: Unknown driver 'vmdk'",
        ),
        (
            (*OBJECT, *GDB),
            "qemu: -object tdx-guest,id=cgs0,colour=red: warning: this is deprecated\n"
            "qemu: -gdb tcp:127.0.0.1:1234: Address already in use",
            "--gdb: QEMU refuses -gdb tcp:127.0.0.1:1234: Address already in use",
        ),
    ],
)
async def test_what_qemu_refuses_is_the_users_input(
    tmp_path: Path, words: tuple[str, ...], said: str, message: str
) -> None:
    error = await failure(tmp_path, words, said)
    assert isinstance(error, ConfigError)
    assert error.exit_code == 85
    assert error.message == message
    assert error.hint == f"its log is {tmp_path / 'log'}"


@pytest.mark.parametrize(
    ("said", "status"), [("qemu: out of memory", 1), ("qemu: -gdb tcp:127.0.0.1:1234: no", 134)]
)
async def test_anything_else_is_qemus_failure(tmp_path: Path, said: str, status: int) -> None:
    error = await failure(tmp_path, GDB, said, status)
    assert isinstance(error, VmExited)
    assert error.exit_code == 84
