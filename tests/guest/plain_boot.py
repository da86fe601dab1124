# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot a guest with QEMU alone, without the controller: what is tested is the image."""

import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from cvmlab.images.boot_files import BootFiles
from cvmlab.profiles.architecture import X86_64
from cvmlab.qemu.build import qemu_binary, rom_dirs


_DEADLINE_S = 90


@dataclass(frozen=True, slots=True)
class Booted:
    """What the guest said until it powered off.

    *channel* is what the agent said on its port, *console* all else, the command's output at its end.
    """

    channel: list[str]
    console: str


def boot(
    folder: Path,
    files: BootFiles,
    *,
    append: str = "",
    extra: Sequence[str] = (),
    has_channel: bool = True,
    typed: tuple[str, str] = ("", ""),
) -> Booted:
    """Boot *files* and wait for the power-off.

    *typed* is what to wait for on the console, and what to type then.
    """
    channel = ("-serial", f"file:{folder / 'channel'}") if has_channel else ()
    roms = [word for path in rom_dirs() for word in ("-L", str(path))]
    initrd = [] if files.initrd is None else ["-initrd", str(files.initrd)]
    argv = [
        *(str(qemu_binary()), *roms),
        *("-machine", "q35,smm=off", "-m", "1G", "-cpu", "max", "-accel", "tcg"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot"),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console", *channel),
        *("-kernel", str(files.kernel), *initrd),
        *("-append", f"{X86_64.append} {files.append} {append}", *extra),
    ]
    console = _talk(argv, *typed).decode("utf-8", "replace").replace("\r", "")
    told = (folder / "channel").read_text() if has_channel else ""
    before, begins, rest = told.partition("cvmlab output ")
    token, _, rest = rest.partition("\n")
    output, _, after = rest.partition(f"cvmlab end {token}\n")
    told = f"{before}{after}" if begins else told
    return Booted(told.splitlines(), console + output)


def _talk(argv: Sequence[str], prompt: str, answer: str) -> bytes:
    """Run *argv*, type *answer* once it has written *prompt*; return all that it wrote."""
    end = time.monotonic() + _DEADLINE_S
    written, ahead = b"", answer.encode()
    with (
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
        selectors.DefaultSelector() as selector,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        try:
            while selector.select(end - time.monotonic()):
                data = os.read(process.stdout.fileno(), 4096)
                if not data:
                    assert process.wait(end - time.monotonic()) == 0
                    return written
                written += data
                if ahead and prompt.encode() in written:
                    os.write(process.stdin.fileno(), ahead)
                    ahead = b""
        finally:
            process.kill()
    pytest.fail(f"the guest did not power off in {_DEADLINE_S} s; it said: {written[-500:]!r}")
