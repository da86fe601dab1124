# SPDX-License-Identifier: GPL-2.0-or-later
"""What a window of the guest's stack costs in QEMU: records of a bare guest, with it and without.

The guest makes requests that are refused and recorded, with nothing else to do for them.
"""

import asyncio
import statistics
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cvmlab.machine.spec import BootSpec, Stacks
from cvmlab.memory.stacks import STACK_WORDS
from cvmlab.qemu.build import qemu_binary, rom_dirs
from tests.bench.measure import Figure
from tests.qemu.bare import build
from tests.qemu.bare_machine import MEMORY_BYTES, BareMachine, page


KERNEL = 0xFFFF_FFFF_8000_0000  # where the bare guest sees physical address 0
CODE, STACK = page(100), page(101) + 0x800  # the window ends in the next page
REQUESTS = 100_000
ROUNDS = 7
DEADLINE_S = 60.0


def requests(count: int) -> bytes:
    """Return code that makes so many requests to convert what is no page, on our stack."""
    setup = b"\x53\x49\x89\xe1"  # push rbx; mov r9, rsp
    setup += b"\x48\xbc" + struct.pack("<Q", KERNEL + STACK)  # mov rsp, imm
    setup += b"\x41\xb8" + struct.pack("<I", count)  # mov r8d, imm
    body = b"\xb8\x0c\x00\x00\x00"  # mov eax, 12: KVM_HC_MAP_GPA_RANGE
    body += b"\xbb\x01\x00\x00\x00\xb9\x01\x00\x00\x00"  # mov ebx, 1; mov ecx, 1
    body += b"\x31\xd2\x31\xf6\x0f\x01\xc1"  # xor edx, edx; xor esi, esi; vmcall
    body += b"\x41\xff\xc8"  # dec r8d
    back = -(len(body) + 2)
    end = b"\x4c\x89\xcc\x5b\xc3"  # mov rsp, r9; pop rbx; ret
    return (setup + body + b"\x75" + struct.pack("<b", back) + end).ljust(64, b"\0")


def stack() -> bytes:
    """Return a stack as Linux leaves it: a fifth is code, a tenth is the stack itself."""
    words = []
    for i in range(STACK_WORDS):
        kind = (i * 7 + 3) % 10
        code, own = KERNEL + 0x1000000 + i * 4096, KERNEL + STACK + i * 8
        words.append(code if kind < 2 else own if kind < 3 else (i * 0x9E3779B97F4A7C15) >> 8)
    return struct.pack(f"<{STACK_WORDS}Q", *(word & (1 << 64) - 1 for word in words))


def cpu_ns(pid: int) -> int:
    """Return the CPU time that all threads of a process have taken."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


async def record_us(elf: Path, folder: Path, stacks: Stacks) -> float:
    """Return the time of one refused request, in the guest and in QEMU."""
    spec = BootSpec(
        kernel=elf,
        rom_dirs=tuple(rom_dirs()),
        memory_bytes=MEMORY_BYTES,
        coco="sw-protected",
        stacks=stacks,
    )
    async with BareMachine.start(qemu_binary(), spec, folder) as vm:
        vm.is_intact = False  # nobody reads its records, so some are lost
        vm.guest.write_bytes(CODE, requests(REQUESTS))
        vm.guest.write_bytes(STACK, stack())
        vm.guest.value("call", CODE)  # translates the code
        before = cpu_ns(vm.process.pid)
        vm.guest.value("call", CODE)
        taken = cpu_ns(vm.process.pid) - before
        if vm.records()["stack"].any() != (stacks is Stacks.ON):
            raise RuntimeError("records do not have the windows that are measured")
        return taken / REQUESTS / 1000


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="cvmlab-bench-") as name:
        folder = Path(name)
        elf = build(folder)
        taken = [
            {kind: asyncio.run(record_us(elf, folder, kind)) for kind in (Stacks.OFF, Stacks.ON)}
            for _ in range(ROUNDS)
        ]
    more = [one[Stacks.ON] - one[Stacks.OFF] for one in taken]
    detail = (
        f"{REQUESTS} records with {STACK_WORDS} words, {ROUNDS} pairs, {min(more):.2f} to "
        f"{max(more):.2f} us; a record without is {min(one[Stacks.OFF] for one in taken):.2f} us"
    )
    yield Figure("stack-record", statistics.median(more), detail)
