# SPDX-License-Identifier: GPL-2.0-or-later
"""Journals as a guest would leave them, made up; and run folders around them."""

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from cvmlab.memory.ranges import Slot
from cvmlab.memory.records import NO_DEVICE, NO_VCPU, RECORD, Actor, Kind, Phase
from cvmlab.memory.states import PageState
from cvmlab.report.recording import NAMES_FILE, encode_names
from cvmlab.results.result import Result, from_json
from cvmlab.results.timeline import Names


PAGE = 4096
GIB = 1 << 30
KERNEL = 0xFFFFFFFF81000000
NAMES = Names(
    devices={3: "disk0", 4: "net0-pci"},
    functions={
        KERNEL: "iowrite16+0xd",
        KERNEL + 0x100: "set_memory_decrypted+0x20",
        KERNEL + 0x180: "set_memory_decrypted+0xa0",
    },
    slots=(Slot(0, 0, GIB),),
)
Records = NDArray[np.void]


def row(kind: Kind, vtime_ns: int, **fields: int) -> Records:
    """Return one record; ``before`` and ``after`` are states."""
    made = np.zeros(1, RECORD)
    made["kind"], made["vtime_ns"], made["htime_ns"] = kind, vtime_ns, vtime_ns + 10**9
    made["device"], made["pages"] = NO_DEVICE, 1
    for name, value in fields.items():
        made[{"before": "from", "after": "to"}.get(name, name)] = value
    return made


def journal(*rows: Records) -> Records:
    """Number the rows."""
    # concatenate() packs the fields closer than RECORD has them
    made = (np.concatenate(rows) if rows else np.empty(0, RECORD)).astype(RECORD)
    made["seq"] = np.arange(1, len(made) + 1)
    return made


def phase(phase: Phase, vtime_ns: int) -> Records:
    return row(Kind.PHASE, vtime_ns, flags=phase, pages=0)


def accepted(first_page: int, count: int, vtime_ns: int, *, step_ns: int = 1000) -> Records:
    """First touches by vCPU 0, one page each."""
    made = np.repeat(row(Kind.ACCEPT, vtime_ns, after=PageState.PRIVATE), count)
    made["gpa"] = (first_page + np.arange(count, dtype=np.uint64)) * PAGE
    made["vtime_ns"] += np.arange(count, dtype=np.uint64) * np.uint64(step_ns)
    return made


def converted(
    first_page: int, pages: int, vtime_ns: int, *, to: PageState = PageState.SHARED, vcpu: int = 0,
    rip: int = KERNEL + 0x100,
) -> Records:  # fmt: skip
    before = PageState.PRIVATE if to is PageState.SHARED else PageState.SHARED
    return row(
        Kind.CONVERT, vtime_ns, gpa=first_page * PAGE, pages=pages, vcpu=vcpu, rip=rip,
        before=before, after=to,
    )  # fmt: skip


def fault(gpa: int, vtime_ns: int, *, device: int = 3, vcpu: int = NO_VCPU) -> Records:
    return row(
        Kind.HOST_FAULT, vtime_ns, gpa=gpa, device=device, vcpu=vcpu, actor=Actor.DEVICE,
        rip=0 if vcpu == NO_VCPU else KERNEL, before=1, after=1,
    )  # fmt: skip


def small() -> Records:
    """Every kind of thing once or twice, over three seconds."""
    second = 10**9
    return journal(
        phase(Phase.FIRMWARE, 0),
        accepted(0, 50, 1000),
        row(Kind.LOAD, second // 2, gpa=4096 * PAGE, pages=16, after=1, actor=Actor.LOADER,
            vcpu=NO_VCPU),
        phase(Phase.KERNEL, second),
        accepted(100, 200, second + 1000),
        converted(100, 8, second + second // 2),
        converted(110, 4, second + second // 2 + 1000, rip=KERNEL + 0x180),
        fault(120 * PAGE, 2 * second - 1000, vcpu=0),
        phase(Phase.USER, 2 * second),
        converted(100, 8, 2 * second + 5000, to=PageState.PRIVATE),
        fault(121 * PAGE, 3 * second, device=4),
    )  # fmt: skip


def large(events: int, *, seed: int = 1) -> Records:
    """A journal of *events* records over all of 1 GiB: half touches, half conversions, faults."""
    random = np.random.default_rng(seed)
    half = events // 2
    touched = accepted(0, half, 1000, step_ns=40_000)
    touched["gpa"] = random.permutation(GIB // PAGE)[:half].astype(np.uint64) * PAGE
    rest = np.repeat(converted(0, 1, 0), events - half)
    rest["gpa"] = np.resize(touched["gpa"], len(rest))
    rest["vtime_ns"] = int(touched["vtime_ns"][-1]) + np.arange(1, len(rest) + 1) * 50_000
    rest["rip"] = random.integers(0, 400, len(rest)).astype(np.uint64) * 16 + np.uint64(KERNEL)
    rest["vcpu"] = random.integers(0, 4, len(rest))
    faulty = np.arange(0, len(rest), 50)
    rest["kind"][faulty], rest["actor"][faulty] = Kind.HOST_FAULT, Actor.DEVICE
    rest["device"][faulty], rest["to"][faulty] = 3, 1
    half_way = int(touched["vtime_ns"][half // 2])
    return journal(
        phase(Phase.FIRMWARE, 0), touched[: half // 2], phase(Phase.KERNEL, half_way),
        touched[half // 2 :], phase(Phase.USER, int(touched["vtime_ns"][-1])), rest,
    )  # fmt: skip


def result(**changes: object) -> Result:
    """A result that fits no journal in particular."""
    document = {
        "cvmlab": "0.1.0", "outcome": "ok", "exit_code": 0, "message": "the guest powered off",
        "coco": "generic", "firmware": "seabios", "memory_bytes": GIB, "cpus": 1,
        "started": "2026-01-02T03:04:05+00:00", "duration": 12.5, **changes,
    }  # fmt: skip
    return from_json(msgspec.json.encode(document))


def run_folder(
    folder: Path, records: Records, *, made: Result | None = None, names: Names = NAMES
) -> Path:
    """Write what a run leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "events.bin").write_bytes(records.tobytes())
    (folder / NAMES_FILE).write_bytes(encode_names(names))
    (folder / "result.json").write_bytes(msgspec.json.encode(made or result()))
    return folder


def boot_like() -> Records:
    """What a boot looks like: firmware sweeps, the kernel spreads, buffers are shared, a fault."""
    random = np.random.default_rng(7)
    second = 10**9
    rows = [phase(Phase.FIRMWARE, 0), accepted(0, 6000, second // 20, step_ns=150_000)]
    rows += [phase(Phase.KERNEL, 2 * second)]
    clock = 2 * second + second // 10
    for at in random.integers(6000, 90_000, 160).tolist():
        rows.append(accepted(at, int(random.integers(4, 200)), clock, step_ns=4000))
        clock += int(random.integers(5_000_000, 40_000_000))
    rows += [phase(Phase.USER, clock)]
    for number in range(60):
        clock += 30_000_000
        first = 20_000 + number * 40
        rows.append(converted(first, 16, clock, rip=KERNEL + 0x100 + 0x80 * (number % 2)))
        if number % 3 == 0:
            rows.append(converted(first, 16, clock + 9_000_000, to=PageState.PRIVATE))
        if number % 20 == 5:
            rows.append(fault((30_000 + number) * PAGE, clock + 10_000_000, device=4, vcpu=0))
    return journal(*rows)
