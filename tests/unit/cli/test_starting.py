# SPDX-License-Identifier: GPL-2.0-or-later
"""What the command promises before it does anything: version, help, a quick start."""

import subprocess
import sys
from pathlib import Path

import pytest

from cvmlab import __version__
from cvmlab.cli import main


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cvmlab {__version__}\n"
    assert main([]) == 0
    text = capsys.readouterr().out
    assert "nothing is encrypted" in text
    assert "255 the guest kernel panicked" in " ".join(text.split())


@pytest.mark.parametrize(
    "command",
    ["boot", "ps", "stop", "query", "map", "convert", "events", "qmp", "doctor", "images", "build"],
)
def test_every_command_of_the_contract_explains_itself(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: cvmlab {command}")


def test_starting_loads_nothing_that_is_slow() -> None:
    code = (
        "import sys; from cvmlab.cli import main; main(['--version']); "
        "print(sorted({'numpy', 'asyncio', 'elftools', 'qemu.qmp', 'msgspec'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout.splitlines()[-1] == "[]"


def test_output_on_a_full_disk_is_a_sentence_and_no_defect() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cvmlab", "--help"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr.splitlines()) == (
        85,
        [
            "cvmlab: the output cannot be written: No space left on device",
            "hint: free some space, or send it elsewhere",
        ],
    )
