# SPDX-License-Identifier: GPL-2.0-or-later
"""The example of the repository, whole: killed half-way, it goes on and ends well."""

import signal
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from cvmlab.matrix.document import load
from cvmlab.matrix.folder import known
from cvmlab.runs.run_dir import find_runs
from tests.guest.program import qemu_is_gone, start, wait_for_text


pytestmark = [
    pytest.mark.guest,
    pytest.mark.long,
    pytest.mark.timeout(3000),
    pytest.mark.usefixtures("state_home"),
]

EXAMPLE = Path(__file__).parents[2] / "examples" / "matrix.toml"
# The design asks for 15 minutes on two cores of its own; a busy machine gets more.
DEADLINE_S = 2400.0


def test_the_example_goes_on_after_a_kill_and_passes(tmp_path: Path) -> None:
    cells = load(EXAMPLE).cells
    kept = tmp_path / "k"
    words = ("matrix", str(EXAMPLE), "--run-dir", str(kept), "--progress", "none")
    with start(*words) as process:
        wait_for_text(kept / "cells" / "003" / "cell.json", "verdict")
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    assert all(qemu_is_gone(run) for run in find_runs(kept / "cells"))
    before = {number: cell.seconds for number, cell in known(kept).items()}
    assert 0 < len(before) < len(cells)

    with start(*words) as process:
        out, err = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 0, out + err
    after = known(kept)
    assert {number: after[number].seconds for number in before} == before
    suite = ET.parse(kept / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    ignored = sum(cell.ignored is not None for cell in cells)
    assert [suite.get(name) for name in ("tests", "failures", "skipped")] == [
        str(len(cells)), "0", str(ignored),
    ]  # fmt: skip
    assert len(after) == len(cells) - ignored
