# SPDX-License-Identifier: GPL-2.0-or-later
"""What this machine can bear: processors and memory, as far as this process may use them."""

import os
from dataclasses import dataclass
from pathlib import Path


_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_NO_LIMIT = "max"


@dataclass(frozen=True, slots=True)
class Capacity:
    """Room for guests.  ``jobs`` is how many at a time at most, None: as many as fit."""

    cores: int
    memory_bytes: int
    jobs: int | None = None

    def has_room(self, used: "Capacity", cores: int, memory_bytes: int) -> bool:
        """Whether a guest fits beside those that are *used* (its ``jobs`` is how many they are).

        A guest alone always does: it is better to try than to say no.
        """
        number = used.jobs or 0
        return number == 0 or (
            (self.jobs is None or number < self.jobs)
            and used.cores + cores <= self.cores
            and used.memory_bytes + memory_bytes <= self.memory_bytes
        )


def capacity(
    jobs: int | None = None, *, meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP
) -> Capacity:
    """Ask the kernel.  A container's limits count, if it is the root of its cgroup."""
    cores = len(os.sched_getaffinity(0))
    quota = _words(cgroup / "cpu.max")
    if len(quota) == 2 and quota[0] != _NO_LIMIT:
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    free = [_available(meminfo)]
    limit = _words(cgroup / "memory.max")
    if limit and limit[0] != _NO_LIMIT:
        used = _words(cgroup / "memory.current")
        free.append(max(int(limit[0]) - int(used[0] if used else 0), 0))
    return Capacity(max(cores, jobs or 0), min(free), jobs)


def _available(meminfo: Path) -> int:
    for line in meminfo.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []
