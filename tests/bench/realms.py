# SPDX-License-Identifier: GPL-2.0-or-later
"""What a stock kernel takes as a CCA realm: wall time from QEMU's start to power-off, and user CPU.

The other side is the same kernel with ``--coco off``, on the same QEMU.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cvmlab import images
from cvmlab.memory.stacks import STACKS_BYTES
from cvmlab.profiles.architecture import AARCH64
from cvmlab.profiles.guest_object import GUEST_ID, guest_object
from cvmlab.profiles.profile_rows import NO_PROFILE, PROFILES
from cvmlab.qemu.build import install
from cvmlab.qemu.recipe import Flavour
from tests.bench.measure import Cost, Figure, cost, in_turn, ratio


IMAGE = "debian-arm64-sid"
REALM = "cca"
ROUNDS = 21
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Run:
    """One boot."""

    cost: Cost
    wall_s: float


def memory(coco: str, stacks_fd: int) -> list[str]:
    """Return QEMU's options for 1 GiB of ordinary RAM, or of a profile's."""
    machine = ",".join([AARCH64.machine.type, *AARCH64.machine.options])
    if not PROFILES[coco].restricted:
        return ["-machine", machine]
    backend = f"memory-backend-restricted,id=ram0,size=1G,profile={coco},stacks-fd={stacks_fd}"
    guest = guest_object(PROFILES[coco], (), None)
    support = f"{machine},memory-backend=ram0,confidential-guest-support={GUEST_ID}"
    return ["-object", backend, *guest, "-machine", support]


def boot(qemu: Path, coco: str) -> Run:
    """Boot the image once, with one CPU; its init powers off."""
    files = images.resolve(IMAGE)
    stacks = os.memfd_create("stacks")
    try:
        os.ftruncate(stacks, STACKS_BYTES)
        argv = [
            str(qemu), "-no-user-config", "-nodefaults", *memory(coco, stacks), "-m", "1G",
            "-cpu", AARCH64.machine.cpu, "-accel", "tcg,thread=multi,tb-size=256",
            "-display", "none", "-no-reboot", "-kernel", str(files.kernel),
            "-initrd", str(files.initrd), "-append", f"{AARCH64.append} {files.append}",
            "-serial", "null", "-serial", "null",
        ]  # fmt: skip
        start = time.perf_counter()
        taken = cost(argv, timeout_s=TIMEOUT_S, pass_fds=[stacks])
        return Run(taken, time.perf_counter() - start)
    finally:
        os.close(stacks)


def figures(rounds: int | None = None) -> Iterator[Figure]:
    qemu = install(Flavour.PATCHED, architecture=AARCH64)
    program = qemu / "bin" / AARCH64.qemu
    works: dict[str, Callable[[], Run]] = {
        coco: partial(boot, program, coco) for coco in (REALM, NO_PROFILE)
    }
    taken = in_turn(works, rounds or ROUNDS)
    realm, plain = ([one[coco] for one in taken] for coco in (REALM, NO_PROFILE))
    walls = [run.wall_s for run in realm]
    detail = f"{len(walls)} boots, {min(walls):.2f} to {max(walls):.2f} s"
    yield Figure("realm-wall", statistics.median(walls), detail)
    yield Figure("realm-wall-longest", max(walls), detail)
    mine, others = ([run.cost.cpu_s for run in runs] for runs in (realm, plain))
    yield ratio("realm-cpu", mine, others, "s")
