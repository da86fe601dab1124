# SPDX-License-Identifier: GPL-2.0-or-later
"""A stock kernel boots in each profile under ASan and UBSan, and neither reports anything."""

from pathlib import Path

import pytest

from tests.guest.program import cvmlab
from tests.sanitize.hostile import TARGETS
from tests.sanitize.sanitizers import assert_clean


pytestmark = [pytest.mark.sanitize, pytest.mark.usefixtures("state_home")]
DEADLINE_S = 900.0
BROKEN = "BUG:|Oops|general protection"  # a stalled CPU is what a busy host makes of it
SCRIPT = "dd if=/dev/zero of=/tmp/x bs=1M count=64 && cat /proc/interrupts"


@pytest.mark.timeout(DEADLINE_S + 60)
@pytest.mark.parametrize("coco", TARGETS)
def test_a_stock_kernel_boots(sanitized_qemu: Path, tmp_path: Path, coco: str) -> None:
    run = tmp_path / "run"
    done = cvmlab(
        "boot", "debian", "--coco", coco, "--cpus", "2", "--exec", SCRIPT, "--run-dir", str(run),
        "--timeout", str(int(DEADLINE_S)), "--fail-on", BROKEN, env={"CVMLAB_QEMU": str(sanitized_qemu)},
        deadline_s=DEADLINE_S,
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    assert_clean(run / "qemu.log", coco)
