# SPDX-License-Identifier: GPL-2.0-or-later
"""What README.md shows is run: sessions and programs print what it says, commands succeed.

A ``console`` block is a session: its commands run in order, and the lines below a command must come
out in that order, with other numbers perhaps.  The commands of a ``sh`` block run in a folder that
has the files they name.  A comment behind print() in a ``python`` block is what it prints.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cvmlab import images
from cvmlab.base.paths import cache_dir
from cvmlab.base.progress import Style
from cvmlab.images import disk_image, recipes
from cvmlab.images.cpio import CpioEntry, archive
from cvmlab.images.initramfs import append_segment
from cvmlab.profiles.architecture import X86_64
from cvmlab.qemu.build import qemu_img
from tests.tools import installed


pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("state_home")]

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMAND_TIMEOUT_S = 150.0
GDB_TIMEOUT_S = 400.0  # to go back it executes the boot twice
READY_TIMEOUT_S = 150.0
BLOCK_TIMEOUT_S = 1500
# For an installed system on a busy machine.
PATIENCE = "--timeout 400"
# These wait for a person or boot many guests, so the test only has them print what they would do.
DRY = ("--console", "--gdb", " matrix ")


@dataclass(slots=True)
class Step:
    command: str
    expected: list[str] = field(default_factory=list)

    @property
    def background(self) -> bool:
        return self.command.endswith("&")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


SESSIONS = blocks("console")
PROGRAMS = blocks("python")
COMMANDS = [block for block in blocks("sh") if re.search(r"^\./cvmlab ", block, re.MULTILINE)]


def numbers(found: list[str]) -> range:
    """Return ids of tests, one for each block, instead of its text."""
    return range(1, len(found) + 1)


def steps(session: str) -> list[Step]:
    found: list[Step] = []
    for line in session.splitlines():
        if line.startswith("$ "):
            found.append(Step(line[2:]))
        elif line.strip() and line != "...":
            found[-1].expected.append(line)
    return found


def masked(line: str) -> str:
    """Return *line* without what differs from run to run: numbers, plurals, cells of the map."""
    cells = re.sub(r"^(0x[0-9a-f]+) [pPsS.!]+$", r"\1 cells", line.strip())
    cells = re.sub(r"patch [0-9a-f]{12}", "patch", cells)
    numbers = re.sub(r"0x[0-9a-f]+|\d[\d.]*", "N", cells)
    sizes = re.sub(r"\bN[KMG]\b", "N", numbers)
    return re.sub(r"\s+", " ", re.sub(r"\b(fault|access|request)(e?s)\b", r"\1", sizes))


def missing(expected: list[str], shown: str) -> str | None:
    """Return the first expected line that does not come out, in order; None if all do."""
    lines = iter(masked(line) for line in shown.splitlines())
    return next((line for line in expected if masked(line) not in lines), None)


def run(command: str) -> str:
    argv = shlex.split(command)
    timeout_s = COMMAND_TIMEOUT_S
    if argv[1] == "gdb":
        installed.require("gdb", "gdb")
        timeout_s = GDB_TIMEOUT_S
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
    return done.stdout + done.stderr


def wait_until_user_phase(name: str) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while "phase user" not in run(f"./cvmlab query {name}"):
        assert time.monotonic() < deadline, f"the guest of {name} did not come up"


@pytest.fixture
def background() -> Iterator[list[subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in running:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def recording_is_removed() -> Iterator[None]:
    """Sessions run in the checkout, and one of them records a boot there."""
    yield
    shutil.rmtree(ROOT / "boot1", ignore_errors=True)


@pytest.mark.usefixtures("recording_is_removed")
@pytest.mark.parametrize("session", SESSIONS, ids=numbers(SESSIONS))
def test_readme_session_is_what_one_sees(
    session: str, background: list[subprocess.Popen[bytes]]
) -> None:
    for step in steps(session):
        if step.background:
            argv = shlex.split(step.command.removesuffix("&"))
            background.append(subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL))
            wait_until_user_phase(argv[argv.index("--name") + 1])
            continue
        shown = run(step.command)
        assert missing(step.expected, shown) is None, f"$ {step.command}\n{shown}"


def test_the_first_screen_has_a_td_that_passes_and_a_check_that_fails() -> None:
    passes, fails = SESSIONS[:2]
    assert "--coco tdx" in passes
    assert "(exit code 0)" in passes
    assert "(exit code 81)" in fails
    assert README.index(fails) + len(fails) < README.index("**cvmlab emulates visibility")
    assert README[: README.index("## ")].count("\n") < 65


def test_a_changed_readme_line_is_noticed() -> None:
    shown = "pages 12\nshared 3 %\n"
    assert missing(["pages 99", "shared 0.1 %"], shown) is None
    assert missing(["shared 0.1 %", "pages 99"], shown) == "pages 99"
    assert missing(["private 3 %"], shown) == "private 3 %"


def commands(block: str) -> list[str]:
    """Return the commands of ours in a ``sh`` block, without their comments."""
    lines = block.replace("\\\n", " ").splitlines()
    ours = [line for line in lines if re.match(r"\./cvmlab (?!gdb )", line)]  # a session runs gdb
    words = [shlex.split(line, comments=True) for line in ours]
    return [completed(shlex.join(line).replace("'~/", "~/'")) for line in words]


def completed(command: str) -> str:
    """Return *command* with what a test adds to it."""
    if any(word in command for word in DRY):
        return f"{command} --dry-run"
    return f"{command} {PATIENCE}" if command.startswith("./cvmlab boot") else command


def test_a_command_keeps_its_words_and_loses_its_comment() -> None:
    block = (
        "cd x\n./cvmlab boot --kernel ~/y \\\n  --exec 'a #b'    # c\n./cvmlab boot --gdb\n"
        "./cvmlab gdb demo\n"
    )
    assert commands(block) == [
        f"./cvmlab boot --kernel ~/'y' --exec 'a #b' {PATIENCE}",
        "./cvmlab boot --gdb --dry-run",
    ]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a kernel with its tree, an initrd with a selftest, tests to share, a disk."""
    folder = tmp_path_factory.mktemp("stage")
    guest = images.resolve("debian")
    assert guest.kernel is not None
    assert guest.initrd is not None
    for place in (
        folder / "home" / "src" / "linux" / X86_64.kernel.in_build_tree,
        folder / "bzImage",
    ):
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(guest.kernel, place)
    selftest = archive([CpioEntry.file("selftest", b"#!/bin/sh\nuname -r\n", 0o755)])
    (folder / "initrd.img").write_bytes(append_segment(guest.initrd.read_bytes(), selftest))
    (folder / "tests").mkdir()
    (folder / "tests" / "run").write_text("#!/bin/sh\nuname -a\n")
    (folder / "tests" / "run").chmod(0o755)
    recipe = recipes.load().disk["debian-disk"]
    disk = disk_image.build("debian-disk", recipe, style=Style.NONE).disk
    argv = [str(qemu_img()), "convert", "-O", "qcow2", str(disk), str(folder / "users.qcow2")]
    subprocess.run(argv, check=True, capture_output=True, timeout=COMMAND_TIMEOUT_S)
    for name in ("cvmlab", "examples"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.timeout(BLOCK_TIMEOUT_S)
@pytest.mark.parametrize("block", COMMANDS, ids=numbers(COMMANDS))
def test_readme_commands_succeed(block: str, stage: Path) -> None:
    environment = {
        **os.environ, "HOME": str(stage / "home"), "XDG_CACHE_HOME": str(cache_dir().parent)
    }  # fmt: skip
    for command in commands(block):
        done = subprocess.run(
            ["bash", "-c", command], cwd=stage, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=BLOCK_TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("program", PROGRAMS, ids=numbers(PROGRAMS))
def test_readme_program_prints_its_comments(program: str) -> None:
    expected = re.findall(r"^ *print\(.*?\) +# (.+)$", program, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT,
        timeout=COMMAND_TIMEOUT_S, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert expected
    assert missing(expected, done.stdout) is None, done.stdout
