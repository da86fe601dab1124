# SPDX-License-Identifier: GPL-2.0-or-later
"""The same operations on the kernel's guest_memfd and on the emulation; every difference has a reason."""

import errno
import mmap
import random
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import pytest

from cvmlab.generations.rulebook import Generation
from cvmlab.generations.syscalls import PAGE
from tests.oracle.emulated import EmulatedMachine
from tests.oracle.realkvm import RealMachine, why_not


REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

Step = tuple[Any, ...]
KEEP, PUNCH = 1, 2
RW = mmap.PROT_READ | mmap.PROT_WRITE
EXEC = RW | mmap.PROT_EXEC
SHARED, PRIVATE = mmap.MAP_SHARED, mmap.MAP_PRIVATE
MMAP, INIT_SHARED = 1, 2
GMEM = 4

# What differs on purpose: (step, what the kernel says) -> why the emulation says otherwise.
DIFFERENCES: dict[tuple[str, str], str] = {}

FILE_CALLS = [
    "read",
    "read-nothing",
    "write",
    "write-nothing",
    "readv",
    "pread",
    "pwrite",
    "lseek",
    "seek-data",
    "sendfile",
    "posix-fallocate",
    "splice",
    "copy-file-range",
    "ftruncate",
    "fchmod",
    "fchown",
    "utimes",
    "fsync",
    "fdatasync",
    "get-seals",
    "add-seals",
    "reopen",
    "epoll",
    "unknown-ioctl",
    "flock",
    "fadvise",
]
SIZES = (0, 1, PAGE - 1, PAGE, PAGE + 1, 4 * PAGE, -PAGE, -1, 1 << 63, (1 << 63) - PAGE, 1 << 40)
OFFSETS = (0, 1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 4 * PAGE, 5 * PAGE, -PAGE, -1, 1 << 62)
LENGTHS = (0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 4 * PAGE, 8 * PAGE, -PAGE, (1 << 63) - PAGE)
MODES = (
    0,
    KEEP,
    PUNCH,
    PUNCH | KEEP,
    0x8,
    0x9,
    0x10,
    0x11,
    0x20,
    0x21,
    0x40,
    0x41,
    0x100,
    0x12,
    0x13,
)


def outcomes(machine: RealMachine | EmulatedMachine, steps: Sequence[Step]) -> Iterator[str]:
    """Run the steps one by one; say what each returned, or the name of its errno."""
    for name, *arguments in steps:
        try:
            result = getattr(machine, name)(*arguments)
        except OSError as error:
            yield errno.errorcode[error.errno or 0]
        except (KeyError, ValueError):
            yield "not possible"
        else:
            yield "done" if result is None else repr(result)


def differences(steps: Sequence[Step], generation: Generation) -> list[str]:
    real, emulated = RealMachine(), EmulatedMachine(generation)
    found = []
    try:
        pairs = zip(steps, outcomes(real, steps), outcomes(emulated, steps), strict=True)
        for number, (step, kernel, ours) in enumerate(pairs):
            if kernel != ours and (str(step[0]), kernel) not in DIFFERENCES:
                found.append(f"step {number} {step}: kernel {kernel}, emulation {ours}")
    finally:
        real.close()
        emulated.close()
    return found


def _bind_one_by_one() -> list[Step]:
    """Every pair of mistakes in one call shows which check comes first."""
    steps: list[Step] = [
        ("create", "f", 4 * PAGE, 0),
        ("create", "foreign", 4 * PAGE, 0, "other-vm"),
        ("bind", 1, GMEM, 0x100000, PAGE, "f", 0),
    ]
    flags = (GMEM, GMEM | 2, GMEM | 1, GMEM | 8, 16, 0)
    files = ("f", "bad", "memfd", "foreign")
    gpas = (0, 1, 0x100000, (1 << 64) - PAGE)
    offsets = (PAGE, 1, 0, 4 * PAGE, (1 << 64) - PAGE)
    sizes = (PAGE, 1, 0, 2 * PAGE, (1 << 31) * PAGE)
    for flag, file, gpa, offset, size in product(flags, files, gpas, offsets, sizes):
        steps += [
            ("bind", 2, flag, gpa, size, file, offset),
            ("bind", 2, 0, 0, 0, "bad", 0),
        ]
    return steps


SCENARIOS: dict[str, list[Step]] = {
    "create": [
        *(("create", "f", size, flags) for size in SIZES for flags in (0, 1, 2, 3, 4, 1 << 63)),
        ("create_from_nowhere",),
        ("create_in_child",),
    ],
    "identity": [
        ("create", "a", PAGE, 0),
        ("create", "b", 2 * PAGE, 3),
        ("dup", "a", "c"),
        *((("identity", one, two)) for one, two in product("abc", repeat=2)),
        *((call, file) for call in ("stat", "statfs", "link_text", "cloexec") for file in "ab"),
    ],
    "file calls": [
        ("create", "f", 4 * PAGE, 0),
        ("create", "m", 4 * PAGE, 3),
        *(("call", file, name) for name in FILE_CALLS for file in "fm"),
        ("stat", "f"),
    ],
    "fallocate": [
        ("create", "f", 4 * PAGE, 0),
        *(("fallocate", "f", *rest) for rest in product(MODES, OFFSETS, LENGTHS)),
        ("stat", "f"),
    ],
    "slots": [
        ("create", "f", 8 * PAGE, 0),
        ("bind", 0, GMEM, 0, 4 * PAGE, "f", 0),
        ("bind", 0, GMEM, 0, 4 * PAGE, "f", 0),
        ("bind", 0, 0, 0, 4 * PAGE, "f", 0),
        ("bind", 0, 0, 0x10000, 4 * PAGE, "f", 0),
        ("bind", 1, GMEM, 0x10000, 4 * PAGE, "f", 2 * PAGE),
        ("bind", 1, GMEM, PAGE, 4 * PAGE, "f", 4 * PAGE),
        ("bind", 1, GMEM, PAGE, 4 * PAGE, "bad", 4 * PAGE),
        ("bind", 1, GMEM, 0x10000, 4 * PAGE, "f", 4 * PAGE),
        ("bind", 0, 0xFFFF, 0, 0, "bad", 0),
        ("bind", 0, GMEM, 0, 0, "bad", 1 << 40),
        ("bind", 0, GMEM, 0, 0, "bad", 0),
        ("bind", 2, GMEM, 0, 4 * PAGE, "f", 0),
        ("dup", "f", "g"),
        ("bind", 3, GMEM, 0x20000, 4 * PAGE, "g", 0),
        ("close_file", "f"),
        ("bind", 3, GMEM, 0x20000, 4 * PAGE, "g", 0),
        ("close_file", "g"),
        ("bind", 2, GMEM, 0, 4 * PAGE, "bad", 0),
        ("bind", 2, 0, 0, 0, "bad", 0),
        ("bind", 2, 0, 0, 0, "bad", 0),
        ("bind_old", 4, GMEM, 0x40000, PAGE),
        ("bind_old", 4, 0, 0x40000, PAGE),
        ("bind_old", 4, 0, 0x40000, 2 * PAGE),
        ("bind_old", 4, 2, 0x40000, PAGE),
        ("bind_old", 4, 0, 0x50000, PAGE),
        ("bind_old", 40000, 0, 0x60000, PAGE),
        ("bind_old", 5, 0, 0x50000, PAGE),
        ("bind_at", 6, 0x60000, PAGE, 1),
        ("bind_at", 6, 0x60000, PAGE, 0),
        ("bind_at", 6, 0x60000, PAGE, PAGE),
        ("bind_at", 6, 0x70000, PAGE, 0),
    ],
    "bind order": _bind_one_by_one(),
    "two VMs": [
        ("create", "f", 4 * PAGE, 0),
        ("bind_in", "other", 0, "f"),
        ("close_vm", "vm"),
        ("bind_in", "other", 0, "f"),
        ("fallocate", "f", KEEP, 0, PAGE),
        ("fallocate", "f", KEEP | PUNCH, 0, PAGE),
        ("stat", "f"),
    ],
    "attributes": [
        *(("attributes", *rest) for rest in product((0, 1, PAGE), (0, 1, PAGE), (0, 8, 1), (0, 1))),
        ("create", "f", PAGE, 3),
        ("convert", "f", 0, PAGE, 8),
    ],
    "mmap": [
        *(("create", f"f{flags}", 4 * PAGE, flags) for flags in range(4)),
        *(
            ("mmap", f"m{flags}{kind}{protection}", f"f{flags}", 4 * PAGE, protection, kind)
            for flags in range(4)
            for kind in (SHARED, PRIVATE)
            for protection in (RW, EXEC, mmap.PROT_READ)
        ),
    ],
    "touch": [
        ("create", "private", 4 * PAGE, MMAP),
        ("create", "shared", 4 * PAGE, MMAP | INIT_SHARED),
        ("mmap", "p", "private", 16 * PAGE, RW, SHARED),
        ("mmap", "s", "shared", 16 * PAGE, RW, SHARED),
        *(
            ("load", name, offset, 8)
            for name in "ps"
            for offset in (0, 3 * PAGE, 4 * PAGE, 9 * PAGE)
        ),
        ("store", "s", 4 * PAGE - 4, b"12345678"),
        ("load", "s", 4 * PAGE - 4, 4),
        ("store", "s", PAGE, b"kept"),
        ("mmap", "t", "shared", 4 * PAGE, RW, SHARED),
        ("load", "t", PAGE, 4),
        ("fallocate", "shared", KEEP | PUNCH, PAGE, PAGE),
        ("load", "s", PAGE, 4),
        ("close_file", "shared"),
        ("store", "s", 0, b"alive"),
        ("load", "t", 0, 5),
        ("unmap", "s"),
        ("load", "t", 0, 5),
        ("stat", "private"),
    ],
    "advice": [
        ("create", "private", 4 * PAGE, MMAP),
        ("create", "shared", 4 * PAGE, MMAP | INIT_SHARED),
        ("mmap", "p", "private", 4 * PAGE, RW, SHARED),
        ("mmap", "s", "shared", 4 * PAGE, RW, SHARED),
        ("store", "s", 0, b"some"),
        *(
            ("advise", name, advice, 0, PAGE)
            for name in "ps"
            for advice in ("hugepage", "collapse", "dontneed", "free", "populate", "lock")
        ),
        ("load", "s", 0, 4),
        ("mprotect", "s", EXEC),
        ("mprotect", "s", RW),
    ],
    "remove": [
        ("create", "shared", 4 * PAGE, MMAP | INIT_SHARED),
        ("mmap", "s", "shared", 4 * PAGE, RW, SHARED),
        ("store", "s", PAGE, b"some"),
        ("advise", "s", "remove", PAGE, PAGE),
        ("load", "s", PAGE, 4),
    ],
}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("generation", ["D", "F"])
def test_the_emulation_answers_as_the_kernel(generation: str, scenario: str) -> None:
    assert differences(SCENARIOS[scenario], Generation(generation)) == []


def _random_steps(seed: int) -> list[Step]:
    rng = random.Random(seed)
    files = ["f", "g", "bad", "memfd"]
    steps: list[Step] = [
        ("create", "f", 8 * PAGE, rng.randrange(4)),
        ("create", "g", 4 * PAGE, rng.randrange(4)),
    ]
    for number in range(60):
        size = rng.choice([0, PAGE, 2 * PAGE, 4 * PAGE, 8 * PAGE, PAGE - 1])
        offset = rng.choice([0, PAGE, 2 * PAGE, 4 * PAGE, 8 * PAGE, 1])
        file = rng.choice(files[:2])
        slot, gpa = rng.randrange(3), rng.randrange(4) * 4 * PAGE
        steps.append(
            rng.choice(
                [
                    (
                        "bind",
                        slot,
                        rng.choice([0, GMEM, GMEM]),
                        gpa,
                        size,
                        rng.choice(files),
                        offset,
                    ),
                    ("bind", slot, 0, 0, 0, "bad", 0),
                    ("fallocate", file, rng.choice([KEEP, KEEP | PUNCH, 0]), offset, size),
                    ("mmap", f"m{number % 3}", file, max(size, PAGE) & -PAGE, RW, SHARED),
                    ("load", f"m{number % 3}", offset, 8),
                    ("store", f"m{number % 3}", offset, b"%08d" % number),
                    ("advise", f"m{number % 3}", rng.choice(["remove", "populate"]), 0, PAGE),
                    ("dup", file, rng.choice(files[:2])),
                    ("close_file", file),
                    ("create", file, 8 * PAGE, rng.randrange(4)),
                    ("stat", file),
                ]
            )
        )
    return steps


@pytest.mark.parametrize("seed", range(60))
def test_random_histories_end_alike(seed: int) -> None:
    assert differences(_random_steps(seed), Generation.MAPPABLE_GUEST_MEMFD) == []
