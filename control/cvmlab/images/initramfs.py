# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's first file system: busybox, an init, an agent, kernel modules, and a command.

The command is a separate archive, because the kernel unpacks several archives one after the other:
it can be appended to any initrd, including a user's.  Our init then runs ``/cvmlab/agent``, which
runs ``/cvmlab/exec`` and reports its output and exit status on the second serial port.  Another init
has to do the same after it has mounted /dev::

    [ -x /cvmlab/agent ] && /cvmlab/agent; poweroff -f

The archives are not compressed, because decompression under emulation takes longer than reading.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from cvmlab.base.errors import ConfigError
from cvmlab.base.resources import guest_images_dir
from cvmlab.debian import cache
from cvmlab.images import cpio
from cvmlab.images.cpio import CpioEntry
from cvmlab.images.kernel_modules import Module
from cvmlab.profiles.architecture import DEFAULT_ARCHITECTURE


EXEC_PATH = "cvmlab/exec"
SHARE_PATH = "cvmlab/share"
USERS_INIT = "cvmlab/init"
_PORT = b"SERIAL_PORT"  # what the agent's script has for the port that the architecture's row names
_KEPT = 64  # cached initrds; a test suite has a few dozen commands
_MOUNT_POINTS = ("dev", "proc", "sys", "tmp")
_APPLET_DIRS = ("bin", "sbin", "usr/bin", "usr/sbin")


def build(
    busybox: bytes,
    modules: Sequence[Module] = (),
    *,
    port: str = DEFAULT_ARCHITECTURE.agent,
) -> bytes:
    """Return our initramfs; *busybox* is a static binary, *modules* are loaded in their order.

    *port* is the serial port on which the agent speaks.
    """
    entries = [
        *map(CpioEntry.directory, (*_MOUNT_POINTS, *_APPLET_DIRS)),
        CpioEntry.character_device(
            "dev/console", 5, 1
        ),  # init's own output, before /dev is mounted
        CpioEntry.file("bin/busybox", busybox, 0o755),
        CpioEntry.symlink("bin/sh", "busybox"),
        CpioEntry.file("init", _script("init"), 0o755),
        CpioEntry.file("bin/wait-for", _script("wait-for"), 0o755),
        _agent(port),
        *_module_entries(modules),
    ]
    return cpio.archive(entries)


def exec_segment(
    command: str | None,
    *,
    port: str = DEFAULT_ARCHITECTURE.agent,
    share: bool = False,
    init: bool = False,
) -> bytes:
    """Return an archive with the agent, and with *command*, a line or more of shell, for it to run.

    *share*: the host offers a shared folder, without which the command shall not run.  *init*: with
    a first process, USERS_INIT, for an initrd whose own does not call the agent.
    """
    entries = [_agent(port)]
    if init:
        entries.append(CpioEntry.file(USERS_INIT, _script("init-for-users"), 0o755))
    if command is not None:
        entries.append(CpioEntry.file(EXEC_PATH, exec_script(command), 0o755))
    if share:
        entries.append(CpioEntry.file(SHARE_PATH, b""))
    return cpio.archive(entries)


def append_segment(initrd: bytes, segment: bytes) -> bytes:
    """Return *initrd*, compressed or not, followed by *segment* at an offset the kernel expects."""
    return cpio.pad(initrd) + segment


def cached(key: Sequence[bytes | str], make: Callable[[], bytes]) -> Path:
    """Return the file for *key*; *make* returns its content if it is not in the cache."""
    return cache.kept("initrd", ".cpio", key, lambda path: _write(path, make()), keep=_KEPT)


def scripts_digest(port: str) -> str:
    """Return a digest of the scripts that build() packs."""
    return cache.digest([_script("init"), agent(port), _script("wait-for")])


def agent(port: str = DEFAULT_ARCHITECTURE.agent) -> bytes:
    """Return the script that runs a command in the guest and reports its exit status on *port*."""
    return _script("agent").replace(_PORT, port.encode())


def exec_script(command: str) -> bytes:
    """Return the script that the agent runs for *command*, a line or more of shell."""
    if "\0" in command or not command.strip():
        raise ConfigError("the command to run is empty or contains a NUL character")
    return f"#!/bin/sh\n{command}\n".encode("utf-8", "surrogateescape")


def _agent(port: str) -> CpioEntry:
    return CpioEntry.file("cvmlab/agent", agent(port), 0o755)


def _script(name: str) -> bytes:
    return (guest_images_dir() / "initramfs" / name).read_bytes()


def _module_entries(modules: Sequence[Module]) -> list[CpioEntry]:
    paths = {module: f"lib/modules/{module.name}.ko" for module in modules}
    if not paths:
        return []
    listing = "".join(f"/{path}\n" for path in paths.values())
    files = [CpioEntry.file(path, module.contents()) for module, path in paths.items()]
    return [CpioEntry.file("cvmlab/modules", listing.encode()), *files]


def _write(path: Path, contents: bytes) -> None:
    path.write_bytes(contents)
