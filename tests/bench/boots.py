# SPDX-License-Identifier: GPL-2.0-or-later
"""What a boot costs: user CPU and instructions of whole QEMU runs, from start to power-off.

The other side is an unpatched QEMU, built alike.  It boots the same machine in the same kind of
memory, a shared memfd, and in QEMU's own anonymous memory, which gets huge pages where a memfd
does not.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from cvmlab import images
from cvmlab.memory.stacks import STACKS_BYTES
from cvmlab.profiles.architecture import X86_64
from cvmlab.profiles.guest_object import GUEST_ID, guest_object
from cvmlab.profiles.profile_rows import PROFILES
from cvmlab.qemu import build
from tests.bench.measure import Cost, Figure, cost, in_turn, ratio


ROUNDS = 31  # a single pair is off by up to 8 %, the median of 15 by 1 %, of these by 0.7 %
TIMEOUT_S = 120.0
MACHINE = "q35,smm=off,sata=off"
# Realms are measured in realms.py.
MEASURED = PROFILES.where(lambda row: row.restricted and X86_64.name in row.architectures)
MEMFD, ANONYMOUS, PATCHED = "memfd", "anonymous", "patched"
NOT_COUNTED = "this machine counts no instructions: perf_event_open has no such event"


def memory(kind: str, stacks_fd: int | None = None) -> list[str]:
    """Return QEMU's options for 1 GiB of RAM: ordinary RAM of that kind, or that of a profile."""
    if kind == ANONYMOUS:
        return ["-machine", MACHINE]
    if kind == MEMFD:
        backend = "memory-backend-memfd,id=ram0,size=1G,share=on"
        return ["-object", backend, "-machine", f"{MACHINE},memory-backend=ram0"]
    recorded = "" if stacks_fd is None else f",stacks-fd={stacks_fd}"
    backend = f"memory-backend-restricted,id=ram0,size=1G,profile={kind}{recorded}"
    guest = guest_object(PROFILES[kind], (), None)
    support = f",confidential-guest-support={GUEST_ID}" if guest else ""
    machine = f"{MACHINE},memory-backend=ram0{support}"
    return ["-object", backend, *guest, "-machine", machine]


def command(
    qemu: Path,
    memory_options: Sequence[str],
    files: images.BootFiles,
    *,
    append: str = "",
    agent: str = "null",
) -> list[str]:
    """Return the command that boots *files* with one CPU and powers off.

    What the image's own command prints goes to the port *agent*.
    """
    return [
        str(qemu), "-no-user-config", "-nodefaults", *memory_options, "-m", "1G",
        "-cpu", "max", "-accel", "tcg,thread=multi,tb-size=256",
        "-display", "none", "-vga", "none", "-no-reboot", "-global", "apic-common.vapic=off",
        "-kernel", str(files.kernel), "-initrd", str(files.initrd),
        "-append", f"console=ttyS0 loglevel=4 panic=-1 {files.append} {append}",
        "-serial", "null", "-serial", agent,
        *(word for path in build.rom_dirs() for word in ("-L", str(path))),
    ]  # fmt: skip


def boot(qemu: Path, kind: str) -> Cost:
    """Boot the default image once; the stacks of guests with restricted memory are recorded."""
    files = images.resolve("debian")
    if kind in (MEMFD, ANONYMOUS):
        return cost(command(qemu, memory(kind), files), timeout_s=TIMEOUT_S)
    stacks = os.memfd_create("stacks")
    try:
        os.ftruncate(stacks, STACKS_BYTES)
        argv = command(qemu, memory(kind, stacks), files)
        return cost(argv, timeout_s=TIMEOUT_S, pass_fds=[stacks])
    finally:
        os.close(stacks)


def against(
    name: str, taken: Sequence[dict[str, Cost]], ours: str, other: str
) -> tuple[Figure, Figure]:
    """Return the ratio in user CPU and in instructions."""
    pairs = [(one[ours], one[other]) for one in taken]
    times = ratio(name, [a.cpu_s for a, _ in pairs], [b.cpu_s for _, b in pairs], "s")
    counted = [
        (a.instructions / 1e9, b.instructions / 1e9)
        for a, b in pairs
        if a.instructions and b.instructions
    ]
    if not counted:
        return times, Figure(f"{name}-instructions", None, NOT_COUNTED)
    mine, others = zip(*counted, strict=True)
    return times, ratio(f"{name}-instructions", mine, others, "G")


def figures(rounds: int | None = None) -> Iterator[Figure]:
    patched, stock = build.qemu_binary(), stock_alike()
    works: dict[str, Callable[[], Cost]] = {coco: partial(boot, patched, coco) for coco in MEASURED}
    works |= {kind: partial(boot, stock, kind) for kind in (MEMFD, ANONYMOUS)}
    works[PATCHED] = partial(boot, patched, MEMFD)
    taken = in_turn(works, rounds or ROUNDS)
    for coco in MEASURED:
        yield from against(f"boot-{coco}", taken, coco, MEMFD)
        yield against(f"boot-{coco}-anonymous", taken, coco, ANONYMOUS)[0]
    yield from against("boot-patched", taken, PATCHED, MEMFD)
    yield against("boot-memfd", taken, MEMFD, ANONYMOUS)[0]


def stock_alike() -> Path:
    """Return the unpatched QEMU that was compiled as the patched one was."""
    return build.stock_qemu_binary(tuning=build.identity()["tuning"] or None)
