# SPDX-License-Identifier: GPL-2.0-or-later
"""What a boot costs: user CPU of whole QEMU runs, from start to the guest's power-off."""

from collections.abc import Callable, Iterator
from pathlib import Path

from cvmlab import build, images
from tests.bench.measure import Figure, paired, user_cpu_s


PAIRS = 7
TIMEOUT_S = 120.0


def boot(qemu: Path, profile: str | None) -> Callable[[], float]:
    """Return what boots the default image once and says the CPU time, with or without backend."""
    files = images.resolve("debian")
    backend = [
        "-object", f"memory-backend-restricted,id=ram0,size=1G,profile={profile}",
    ] if profile else ["-object", "memory-backend-memfd,id=ram0,size=1G"]  # fmt: skip
    argv = [
        str(qemu), "-no-user-config", "-nodefaults", *backend,
        "-machine", "q35,smm=off,sata=off,memory-backend=ram0", "-m", "1G",
        "-cpu", "max", "-accel", "tcg,thread=multi,tb-size=256",
        "-display", "none", "-vga", "none", "-no-reboot", "-global", "apic-common.vapic=off",
        "-kernel", str(files.kernel), "-initrd", str(files.initrd),
        "-append", f"console=ttyS0 loglevel=4 panic=-1 {files.append}",
        "-serial", "null", "-serial", "null",
        *(word for path in build.rom_dirs() for word in ("-L", str(path))),
    ]  # fmt: skip
    return lambda: user_cpu_s(argv, timeout_s=TIMEOUT_S)


def figures() -> Iterator[Figure]:
    patched, stock = build.qemu_binary(), build.stock_qemu_binary()
    plain = boot(patched, None)
    yield paired("boot-generic", boot(patched, "generic"), plain, PAIRS)
    yield paired("boot-sw-protected", boot(patched, "sw-protected"), plain, PAIRS)
    yield paired("boot-patched", plain, boot(stock, None), PAIRS)
