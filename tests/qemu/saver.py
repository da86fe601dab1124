# SPDX-License-Identifier: GPL-2.0-or-later
"""A program that saves its VM again and again in the same place, until it or its QEMU is killed."""

import asyncio
import sys
from itertools import count
from pathlib import Path

from cvmlab.base.errors import CvmError
from cvmlab.qemu.build import rom_dirs
from cvmlab.vm.vm import Vm
from tests.qemu.conftest import CHURN_AREA, CHURN_PAGES
from tests.qemu.test_upgrade import passes


REFUSED = 3  # the exit code when QEMU was killed


async def main(place: Path, qemu: Path, kernel: Path, coco: str) -> int:
    """Say the process id of QEMU, then a line for each snapshot that is there."""
    vm = Vm(
        qemu=qemu, kernel=kernel, coco=coco, memory="64M", rom_dirs=rom_dirs(),
        append=f"-- churn {CHURN_AREA:x} {CHURN_PAGES:x};--",
    )  # fmt: skip
    try:
        async with vm:
            await passes(vm)
            _say(vm.qemu_pid)
            for number in count(1):
                await vm.save_warm(place, "key")  # it replaces one that is there
                _say(number)
    except CvmError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    return 0


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(
        asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]))
    )
