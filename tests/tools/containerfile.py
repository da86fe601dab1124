# SPDX-License-Identifier: GPL-2.0-or-later
"""The Containerfile, read and followed in a chroot: there is no container engine in a container."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.tools import installed


@dataclass(frozen=True, slots=True)
class Instruction:
    name: str
    text: str


def last_stage(path: Path) -> list[Instruction]:
    """Return the instructions that make the image, the first of them its FROM."""
    found: list[Instruction] = []
    for instruction in _read(path):
        found = [instruction] if instruction.name == "FROM" else [*found, instruction]
    return found


def _read(path: Path) -> Iterator[Instruction]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, text = line.strip().partition(" ")
        if name:
            yield Instruction(name, text.strip())


def base(suite: str, root: Path) -> None:
    """Make what ``FROM debian:SUITE-slim`` stands for: a Debian without anything it can do without."""
    program = installed.require("mmdebstrap", "mmdebstrap")
    subprocess.run(
        [program, "--variant=minbase", "--skip=cleanup/apt/lists", suite, str(root)],
        check=True, capture_output=True, timeout=900,
    )  # fmt: skip


def run_steps(stage: Sequence[Instruction]) -> Iterator[str]:
    """Yield the commands of RUN, without their mounts: the caller puts things there."""
    for instruction in stage:
        if instruction.name == "RUN":
            words = instruction.text.split(" ")
            while words[0].startswith("--"):
                words.pop(0)
            yield " ".join(words)


def environment(stage: Sequence[Instruction]) -> dict[str, str]:
    words = [word for step in stage if step.name == "ENV" for word in step.text.split()]
    return dict(word.split("=", 1) for word in words)


def can_enter() -> bool:
    """Tell whether this user may do what inside() does."""
    words = ["unshare", "--mount", "--fork", "--pid", "sh", "-c"]
    words += ["mount -t proc proc /proc && exec chroot / true"]
    done = subprocess.run(words, capture_output=True, check=False, timeout=60)
    return done.returncode == 0


def inside(
    root: Path, command: str, *, user: str = "root", variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a shell command in the chroot, with a /proc of its own."""
    default = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    words = [f"{name}={value}" for name, value in {**default, **(variables or {})}.items()]
    enter = [
        "unshare", "--mount", "--fork", "--pid", "sh", "-c",
        'mount -t proc proc "$1/proc" && root=$1 user=$2 && shift 2 &&'
        ' exec chroot --userspec="$user" "$root" env -i "$@"',
        "enter", os.fspath(root), user, *words, "sh", "-c", command,
    ]  # fmt: skip
    return subprocess.run(enter, capture_output=True, text=True, timeout=900)
