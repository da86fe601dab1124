# SPDX-License-Identifier: GPL-2.0-or-later
"""A bare-metal guest in the patched QEMU, with its files, its journal and a QMP session."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from cvmlab.base.errors import ImageError
from cvmlab.images import symbols
from cvmlab.machine.command_line import BACKEND_ID, Channels, command_line
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.machine.spec import BootSpec, Stacks
from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import FLAG_WRITE, NO_DEVICE, Actor, Kind, Verdict
from cvmlab.memory.states import STATE_MASK, PageState, RefusalCode
from cvmlab.replays.recorder import Execution
from cvmlab.vm.process import QemuProcess
from cvmlab.vm.qmp import Qmp
from tests.qemu.bare import BareGuest
from tests.qemu.watched import Watched


AREA = 0x2000000  # RAM that neither firmware nor the guest's image uses
MEMORY_BYTES = 64 << 20
SHARED_MAP = 0x100_0000_0000  # of map-shared
IMAGE_BASE = 0xFFFF_FFFF_8000_0000  # where GPA 0 is for code of the guest's image
EDU = "edu0"
EDU_DEVICE = f"edu,id={EDU},dma_mask=0xffffffff"
EDU_BUFFER = 0x40000
END_TIMEOUT_S = 10.0


def page(index: int) -> int:
    """Return the GPA of a page of the test area."""
    return AREA + index * PAGE_SIZE


def drain(stack: AsyncExitStack, *ends: socket.socket) -> None:
    """Read *ends*, and forget what they say, until *stack* is left."""
    loop = asyncio.get_running_loop()
    for end in ends:
        loop.add_reader(end, end.recv, PAGE_SIZE)
        stack.callback(loop.remove_reader, end)


@dataclass(frozen=True, slots=True)
class Event:
    """One journal record without its times, so that tests compare whole events.

    ``rip`` is the name of the guest's function, None if the record has no address; ``device`` is
    the actor's id.
    """

    kind: Kind
    gpa: int
    pages: int = 1
    actor: Actor = Actor.VCPU
    vcpu: int | None = None
    device: str | None = None
    before: PageState = PageState.PENDING
    after: PageState = PageState.PENDING
    verdict: Verdict = Verdict.DENY
    refusal: RefusalCode = RefusalCode.OK
    write: bool = False
    rip: str | None = None


@final
class BareMachine(Watched):
    """Use start(). ``guest`` answers commands; ``events()`` is what happened since the last call."""

    def __init__(self, spec: BootSpec, files: RestrictedFiles, guest: BareGuest) -> None:
        super().__init__(spec.coco, spec.memory_layout, files)
        self.spec = spec
        self.guest = guest
        self.is_intact = True  # False once a test has put garbage into the files
        self.process: QemuProcess
        self._symbols = None
        if spec.kernel:
            with suppress(ImageError):  # one that was made by a test
                self._symbols = symbols.load(spec.kernel)

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        qemu: Path,
        spec: BootSpec,
        run_dir: Path,
        *,
        cont: bool = True,
        execution: Execution | None = None,
    ) -> AsyncIterator["BareMachine"]:
        """Boot *spec* and, with *cont*, wait for the guest's greeting.

        *execution*: it is recorded or replayed.

        Leaving the block without an error checks the whole journal against the table.
        """
        async with AsyncExitStack() as stack:
            pairs = [socket.socketpair() for _ in range(3)]
            for pair in pairs:
                stack.callback(pair[0].close)
                stack.callback(pair[1].close)
            (qmp, qmp_far), (console, console_far), (agent, agent_far) = pairs
            if execution is not None:
                # What it says is said again, and QEMU waits until it is read.
                drain(stack, console, *([agent] if execution.replayed else []))
            files = stack.enter_context(
                RestrictedFiles.create(
                    spec.memory_bytes,
                    layout=spec.memory_layout,
                    stacks=spec.stacks is Stacks.ON,
                )
            )
            self = cls(spec, files, BareGuest(agent))
            stack.callback(self.ring.close)
            channels = Channels(
                qmp_far.fileno(), console_far.fileno(), agent_far.fileno(),
                run_dir / "qmp.sock", run_dir / "console.log",
                execution_log=None if execution is None else execution.log,
                replays=execution is not None and execution.replayed,
            )  # fmt: skip
            self.process = QemuProcess(
                command_line(qemu, spec, channels, files.fds),
                pass_fds=[*files.fds.all, *(pair[1].fileno() for pair in pairs)],
                log_path=run_dir / "qemu.log",
            )
            stack.callback(self.process.kill)
            for pair in pairs:
                pair[1].close()
            self.qmp = await stack.enter_async_context(
                Qmp.connect(qmp, log_path=run_dir / "qmp.jsonl")
            )
            if cont:
                await self.qmp.execute("cont")
                self.guest.wait_hello()
            yield self
            if self.is_intact:
                await self._verify()
            if self.process.status is None:  # a test may have ended it
                await self.qmp.execute_last("quit", timeout_s=END_TIMEOUT_S)
                assert await self.process.wait_for(END_TIMEOUT_S) == 0

    async def counters(self) -> dict[str, int]:
        """Return the plugin's counters."""
        counters = (await self.info())["counters"]
        assert isinstance(counters, dict)
        return counters

    async def change(self, verb: str, *pages: int, count: int = 1, **arguments: str) -> int:
        """Run restricted-memory-*verb* on *count* pages at each GPA; return pages changed."""
        ranges = [{"gpa": gpa, "size": count * PAGE_SIZE} for gpa in pages]
        answer = await self.qmp.execute(
            f"restricted-memory-{verb}", {"id": BACKEND_ID, "ranges": ranges, **arguments}
        )
        changed = answer["pages"]
        assert isinstance(changed, int)
        return changed

    async def convert(self, to: str, *pages: int, count: int = 1, **arguments: str) -> int:
        """Convert pages to "shared" or "private"; return pages changed."""
        return await self.change("convert", *pages, count=count, to=to, **arguments)

    async def device_index(self, name: str) -> int:
        """Return the number that stands for an actor in the journal."""
        (index,) = [
            actor["index"] for actor in (await self.info())["actors"] if actor["id"] == name
        ]
        assert isinstance(index, int)
        return index

    def reach_shared(self, bit: int) -> None:
        """Have the guest reach shared pages by its second map, with this address bit (0: none)."""
        self.guest.done("map-shared", bit)

        def reach(gpa: int) -> int:
            in_ram = gpa < self.spec.memory_bytes
            return SHARED_MAP + gpa if in_ram and self.state(gpa) is PageState.SHARED else gpa

        self.guest.reach = reach

    def state(self, gpa: int) -> PageState:
        """Return the state of a page below 2 GiB, where GPA and offset are equal."""
        return self.table.state(gpa // PAGE_SIZE)

    def states(self, *gpas: int) -> list[PageState]:
        """Return the state of each page."""
        return [self.state(gpa) for gpa in gpas]

    async def events(self) -> list[Event]:
        """Return what happened since the last call, in order."""
        names = {actor["index"]: actor["id"] for actor in (await self.info())["actors"]}
        return [self._event(record, names) for record in self.records()]

    def _event(self, record: np.void, names: dict[int, str]) -> Event:
        rip, vcpu, device = (int(record[field]) for field in ("rip", "vcpu", "device"))
        return Event(
            kind=Kind(int(record["kind"])),
            gpa=int(record["gpa"]),
            pages=int(record["pages"]),
            actor=Actor(int(record["actor"])),
            vcpu=None if vcpu == 0xFFFF else vcpu,
            device=None if device == NO_DEVICE else names[device],
            before=PageState(int(record["from"])),
            after=PageState(int(record["to"])),
            verdict=Verdict(int(record["verdict"])),
            refusal=RefusalCode(int(record["refusal"])),
            write=bool(int(record["flags"]) & FLAG_WRITE),
            rip=self.function(rip) if rip else None,
        )

    def function(self, rip: int) -> str:
        """Return the guest's function at *rip*; the number if there is none."""
        found = self._symbols.function(rip) if self._symbols else None
        return found or f"{rip:#x}"

    def gpa_of(self, symbol: str) -> int:
        """Return where something of the guest's image is."""
        assert self.spec.kernel is not None
        with self.spec.kernel.open("rb") as file:
            symbols = ELFFile(file).get_section_by_name(".symtab")
            assert isinstance(symbols, SymbolTableSection)
            found = symbols.get_symbol_by_name(symbol)
            assert found, symbol
            return int(found[0]["st_value"]) - IMAGE_BASE

    def in_file(self, fd: int, gpa: int, size: int) -> bytes:
        """Return what a memory file holds, for GPAs below 2 GiB."""
        return os.pread(fd, size, gpa)

    def write_shared(self, gpa: int, data: bytes) -> None:
        """Write to a shared page as the host does, for GPAs below 2 GiB."""
        fds = self.files.fds
        os.pwrite(fds.private if fds.shared is None else fds.shared, data, gpa)

    async def _verify(self) -> None:
        """Compare the books, what QEMU says of them, and the storage of the files."""
        info = await self.compare_books()
        counts = self.table.counts()
        assert info["pages"] == {s.word: getattr(counts, s.word) for s in PageState}
        if self.files.fds.shared is not None:
            self.assert_storage()

    def assert_storage(self) -> None:
        """Invariant 2: each file has storage for exactly the pages whose content is there."""
        fds = self.files.fds
        assert fds.shared is not None
        states = self.table.states() & STATE_MASK
        for name, fd, state in (
            ("private", fds.private, PageState.PRIVATE),
            ("shared", fds.shared, PageState.SHARED),
        ):
            expected = set(np.flatnonzero(states == state).tolist())
            assert os.fstat(fd).st_blocks * 512 == len(expected) * PAGE_SIZE, name
            # A page that was allocated and never written counts, but is no data yet.
            assert expected.issuperset(stored_pages(fd)), name


def stored_pages(fd: int) -> Iterable[int]:
    """Yield the indexes of the pages that have data in a file."""
    end = os.fstat(fd).st_size
    position = 0
    while position < end:
        try:
            data = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:
            return
        position = os.lseek(fd, data, os.SEEK_HOLE)
        yield from range(data // PAGE_SIZE, position // PAGE_SIZE)
