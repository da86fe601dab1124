# SPDX-License-Identifier: GPL-2.0-or-later
"""crash and makedumpfile of Debian 13, which run on any machine with the libraries of that suite."""

import subprocess
from functools import cache
from pathlib import Path

from cvmlab.debian.packages import fetch, unpack


_SUITE = "trixie"
_PACKAGES = (
    "crash", "makedumpfile", "libc6", "libgcc-s1", "libstdc++6", "liblzo2-2", "libncursesw6",
    "libsnappy1v5", "libtinfo6", "libzstd1", "zlib1g", "libdw1t64", "libelf1t64", "libbz2-1.0",
    "liblzma5",
)  # fmt: skip
_LIBRARIES = Path("usr/lib/x86_64-linux-gnu")
_DEADLINE_S = 120


@cache
def _root() -> Path:
    return unpack(*(fetch(package, _SUITE) for package in _PACKAGES))


def _run(program: str, *words: str, text: str = "") -> str:
    """Run a program of the suite; return what it says, and fail if it does."""
    libraries = _root() / _LIBRARIES
    loader = libraries / "ld-linux-x86-64.so.2"
    command = [str(loader), "--library-path", str(libraries), str(_root() / "usr/bin" / program)]
    done = subprocess.run(
        [*command, *words], input=text, capture_output=True, text=True, timeout=_DEADLINE_S,
        check=False, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def crash(vmlinux: Path, dump: Path, *commands: str) -> str:
    """Return what crash answers to *commands*."""
    script = "\n".join([*commands, "quit", ""])
    return _run("crash", "-s", str(vmlinux), str(dump), text=script)


def filtered(dump: Path, into: Path) -> str:
    """Have makedumpfile write *into*, without pages of zeros, caches, users and free ones."""
    return _run("makedumpfile", "-d", "31", "-z", str(dump), str(into))
