# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's first file system: busybox, an init, an agent, kernel modules, and a command.

The command is a segment of its own, because the kernel unpacks any number of archives one over the
other: append it to any initrd, also a user's.  Our init then runs ``/cvmlab/agent``, which runs
``/cvmlab/exec`` and reports its exit status on the second serial port.  Another init has to do the
same, once /dev is mounted::

    [ -x /cvmlab/agent ] && /cvmlab/agent; poweroff -f

Not compressed: decompression costs more under emulation than the bytes do.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from cvmlab import cpio, made
from cvmlab.cpio import Entry
from cvmlab.errors import ConfigError, InvariantError
from cvmlab.modules import Module


EXEC_PATH = "cvmlab/exec"
_KEPT = 64  # cached initrds; a command a second time is rare, a test suite has a few dozen
_MOUNT_POINTS = ("dev", "proc", "sys", "tmp")
_APPLET_DIRS = ("bin", "sbin", "usr/bin", "usr/sbin")


def guest_images_dir() -> Path:
    """Return the folder with recipes and scripts: in the installed package, or the repository."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_guest_images", package.parent.parent / "guest-images"):
        if (folder / "images.toml").is_file():
            return folder
    raise InvariantError(
        "the guest image recipes are not installed with cvmlab",
        hint="install cvmlab again, or run it from its repository",
    )


def build(busybox: bytes, modules: Sequence[Module] = ()) -> bytes:
    """Return our initramfs; *busybox* is a static binary, *modules* are loaded in their order."""
    entries = [
        *map(Entry.directory, (*_MOUNT_POINTS, *_APPLET_DIRS)),
        Entry.character_device("dev/console", 5, 1),  # init's own output, before /dev is mounted
        Entry.file("bin/busybox", busybox, 0o755),
        Entry.symlink("bin/sh", "busybox"),
        Entry.file("init", _script("init"), 0o755),
        Entry.file("bin/wait-for", _script("wait-for"), 0o755),
        _agent(),
        *_module_entries(modules),
    ]
    return cpio.archive(entries)


def exec_segment(command: str) -> bytes:
    """Return an archive that makes the guest run *command*, a line or more of shell."""
    return cpio.archive([_agent(), Entry.file(EXEC_PATH, exec_script(command), 0o755)])


def append_segment(initrd: bytes, segment: bytes) -> bytes:
    """Return *initrd*, compressed or not, followed by *segment* where the kernel looks for it."""
    return cpio.pad(initrd) + segment


def cached(key: Sequence[bytes | str], make: Callable[[], bytes]) -> Path:
    """Return the file with what *make* returns for *key*; made once, then found again."""
    return made.kept("initrd", ".cpio", key, lambda path: _write(path, make()), keep=_KEPT)


def scripts_digest() -> str:
    """Name the version of the scripts that build() packs."""
    return made.digest([_script(name) for name in ("init", "agent", "wait-for")])


def agent() -> bytes:
    """Return the script that runs a command in the guest and reports how it ended."""
    return _script("agent")


def exec_script(command: str) -> bytes:
    """Return what the agent runs for *command*, a line or more of shell."""
    if "\0" in command or not command.strip():
        raise ConfigError("the command to run is empty or contains a NUL character")
    return f"#!/bin/sh\n{command}\n".encode("utf-8", "surrogateescape")


def _agent() -> Entry:
    return Entry.file("cvmlab/agent", agent(), 0o755)


def _script(name: str) -> bytes:
    return (guest_images_dir() / "initramfs" / name).read_bytes()


def _module_entries(modules: Sequence[Module]) -> list[Entry]:
    paths = {module: f"lib/modules/{module.name}.ko" for module in modules}
    if not paths:
        return []
    listing = "".join(f"/{path}\n" for path in paths.values())
    files = [Entry.file(path, module.contents()) for module, path in paths.items()]
    return [Entry.file("cvmlab/modules", listing.encode()), *files]


def _write(path: Path, contents: bytes) -> None:
    path.write_bytes(contents)
