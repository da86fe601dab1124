# SPDX-License-Identifier: GPL-2.0-or-later
"""A stock kernel boots in each profile under ASan and UBSan, and neither reports anything."""

from pathlib import Path

import pytest

from cvmlab.listening.kernel_log import NO_TROUBLE, TROUBLE, KernelLog
from tests.guest.program import cvmlab
from tests.sanitize.hostile import TARGETS
from tests.sanitize.sanitizers import assert_clean


pytestmark = [pytest.mark.sanitize, pytest.mark.usefixtures("state_home")]
DEADLINE_S = 900.0
# All trouble but one kind: a guest's clock is the host's, so to the kernel's watchdogs a CPU that a busy
# host runs under ASan seems to stand still.  They say so in these words, and in no others.
LATE = ("stall", "LOCKUP", "BUG: ")
BROKEN = (
    NO_TROUBLE,
    *(pattern for pattern in TROUBLE if not any(word in pattern for word in LATE)),
    r"\bBUG: (?!soft lockup)|\bkernel BUG at ",
)
SCRIPT = "dd if=/dev/zero of=/tmp/x bs=1M count=64 && cat /proc/interrupts"


@pytest.mark.timeout(DEADLINE_S + 60)
@pytest.mark.parametrize("coco", TARGETS)
def test_a_stock_kernel_boots(sanitized_qemu: Path, tmp_path: Path, coco: str) -> None:
    run = tmp_path / "run"
    done = cvmlab(
        "boot", "debian", "--coco", coco, "--cpus", "2", "--exec", SCRIPT, "--run-dir", str(run),
        "--timeout", str(int(DEADLINE_S)), *(f"--fail-on={pattern}" for pattern in BROKEN), env={"CVMLAB_QEMU": str(sanitized_qemu)},
        deadline_s=DEADLINE_S,
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    assert_clean(run / "qemu.log", coco)


@pytest.mark.parametrize(
    ("line", "fails"),
    [
        ("watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [swapper/0:1]", False),
        ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", False),
        ("rcu: INFO: rcu_preempt self-detected stall on CPU", False),
        ("BUG: kernel NULL pointer dereference, address: 0000000000000000", True),
        ("kernel BUG at mm/slub.c:448!", True),
        ("Oops: general protection fault: 0000 [#1] PREEMPT SMP NOPTI", True),
        ("INFO: task swapper/0:1 blocked for more than 120 seconds.", True),
    ],
)
def test_control_only_a_late_cpu_passes(line: str, *, fails: bool) -> None:
    log = KernelLog(BROKEN)
    log.feed(f"[    1.000000] {line}\n")
    assert bool(log.trouble) is fails
