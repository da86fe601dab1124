# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a person waits for the command to start."""

import statistics
import subprocess
import sys
from collections.abc import Iterator

from tests.bench.measure import Figure, seconds


RUNS = 11


def figures() -> Iterator[Figure]:
    argv = [sys.executable, "-m", "cvmlab", "--version"]

    def start() -> None:
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, timeout=30)

    start()
    times = [seconds(start) for _ in range(RUNS)]
    detail = f"{RUNS} runs, {min(times):.3f} to {max(times):.3f} s"
    yield Figure("cli-start", statistics.median(times), detail)
