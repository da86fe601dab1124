# SPDX-License-Identifier: GPL-2.0-or-later
"""What a boot costs: user CPU of whole QEMU runs, from start to the guest's power-off."""

from collections.abc import Callable, Iterator
from pathlib import Path

from cvmlab import build, images
from cvmlab.guestobject import GUEST_ID, guest_object
from cvmlab.states import profiles
from tests.bench.measure import Figure, in_rounds, user_cpu_s


ROUNDS = 31  # a single pair is off by up to 8 %, the median of 15 by 1 %, of these by 0.7 %
TIMEOUT_S = 120.0
MACHINE = "q35,smm=off,sata=off,memory-backend=ram0"


def memory(coco: str | None) -> list[str]:
    """Return QEMU's options for 1 GiB of RAM of a profile; None is ordinary RAM."""
    if coco is None:
        return ["-object", "memory-backend-memfd,id=ram0,size=1G", "-machine", MACHINE]
    backend = ["-object", f"memory-backend-restricted,id=ram0,size=1G,profile={coco}"]
    guest = guest_object(coco, (), None)
    support = f",confidential-guest-support={GUEST_ID}" if guest else ""
    return [*backend, *guest, "-machine", f"{MACHINE}{support}"]


def command(
    qemu: Path, coco: str | None, files: images.BootFiles, *, append: str = "", serial: str = "null"
) -> list[str]:
    """Return the command that boots *files* with one CPU and powers off."""
    return [
        str(qemu), "-no-user-config", "-nodefaults", *memory(coco), "-m", "1G",
        "-cpu", "max", "-accel", "tcg,thread=multi,tb-size=256",
        "-display", "none", "-vga", "none", "-no-reboot", "-global", "apic-common.vapic=off",
        "-kernel", str(files.kernel), "-initrd", str(files.initrd),
        "-append", f"console=ttyS0 loglevel=4 panic=-1 {files.append} {append}",
        "-serial", serial, "-serial", "null",
        *(word for path in build.rom_dirs() for word in ("-L", str(path))),
    ]  # fmt: skip


def boot(qemu: Path, coco: str | None) -> Callable[[], float]:
    """Return what boots the default image once and says the CPU time, with or without backend."""
    argv = command(qemu, coco, images.resolve("debian"))
    return lambda: user_cpu_s(argv, timeout_s=TIMEOUT_S)


def figures() -> Iterator[Figure]:
    patched, stock = build.qemu_binary(), build.stock_qemu_binary()
    plain = boot(patched, None)
    ours = {f"boot-{coco}": boot(patched, coco) for coco in profiles()}
    yield from in_rounds(ours, plain, ROUNDS)
    yield from in_rounds({"boot-patched": plain}, boot(stock, None), ROUNDS)
