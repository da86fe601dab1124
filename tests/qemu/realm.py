# SPDX-License-Identifier: GPL-2.0-or-later
"""The bare-metal guest on an emulated Arm machine, as a realm or under another profile.

Numbers are those of the RMM specification (Arm DEN0137) and of SMCCC, written here by hand: never
take them from the plugin, which they check.
"""

import json
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from cvmlab.machine.command_line import BackendFds
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.states import PageState, profiles
from cvmlab.vm.process import QemuProcess
from cvmlab.vm.qmp import Qmp
from tests.qemu.bare import BareGuest, Fault
from tests.qemu.watched import Watched


SOURCE_DIR = Path(__file__).resolve().parents[2] / "guest-images" / "bare-arm"
RAM_BASE = 0x4000_0000
MEMORY_BYTES = 64 << 20
AREA = RAM_BASE + (32 << 20)  # RAM that the guest's image does not use
SHARED = 1 << 47  # the top bit of 48
UART = 0x0900_0000

RSI = 0xC400_0000
VERSION, FEATURES, MEASUREMENT_READ, MEASUREMENT_EXTEND = range(RSI + 0x190, RSI + 0x194)
TOKEN_INIT, TOKEN_CONTINUE, REALM_CONFIG = range(RSI + 0x194, RSI + 0x197)
STATE_SET, STATE_GET, HOST_CALL = range(RSI + 0x197, RSI + 0x19A)
SUCCESS, ERROR_INPUT, ERROR_STATE, INCOMPLETE, ERROR_UNKNOWN = range(5)
EMPTY, RAM, DESTROYED = range(3)
ACCEPT, REJECT = range(2)
CHANGE_DESTROYED = 1
NOT_SUPPORTED = (1 << 64) - 1
RSI_1_0 = 0x10000

# Arm Architecture Reference Manual, ESR_EL1: exception classes, from the same level, and status.
DATA_ABORT, FETCH_ABORT = 0x25, 0x21
EXTERNAL_ABORT = 0x10
EXTERNAL_ABORT_ON_WALK_3 = 0x17
EA = 1 << 9
WRITE = 1 << 6
STATUS = 0x3F


def page(index: int) -> int:
    """Return the IPA of a page of the test area."""
    return AREA + index * PAGE_SIZE


def build(out_dir: Path) -> Path:
    """Return the guest, built from the current sources."""
    command = ["make", "-s", "-C", str(SOURCE_DIR), f"O={out_dir}"]
    subprocess.run(command, check=True, timeout=120)
    return out_dir / "bare.elf"


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """What a call has left in X0 to X10."""

    x: tuple[int, ...]

    @property
    def status(self) -> int:
        return self.x[0]


@final
@dataclass(frozen=True, slots=True)
class MachineWords:
    """What QEMU is told; *guest* are properties of the realm."""

    qemu: Path
    kernel: Path
    profile: str
    cpu: str
    guest: Sequence[str]
    token_socket: Path | None
    options: Sequence[str]

    def argv(self, fds: BackendFds, qmp: int, agent: int) -> list[str]:
        is_realm = self.profile == "cca"
        support = ",confidential-guest-support=rme0" if is_realm else ""
        return [
            str(self.qemu),
            *("-no-user-config", "-nodefaults", "-display", "none"),
            *(("-object", self._realm()) if is_realm else ()),
            *("-object", self._backend(fds)),
            *("-machine", f"virt,gic-version=3,aux-ram-share=on,memory-backend=ram0{support}"),
            *("-m", f"{MEMORY_BYTES >> 20}M", "-cpu", self.cpu, "-accel", "tcg"),
            *("-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control"),
            *("-serial", "null", "-chardev", f"socket,id=agent,fd={agent}"),
            *("-serial", "chardev:agent", "-kernel", str(self.kernel)),
            *self.options,
        ]

    def _backend(self, fds: BackendFds) -> str:
        words = [
            f"memory-backend-restricted,id=ram0,size={MEMORY_BYTES},profile={self.profile}",
            f"private-fd={fds.private}", f"table-fd={fds.table}", f"ring-fd={fds.ring}",
            *([] if fds.shared is None else [f"shared-fd={fds.shared}"]),
        ]  # fmt: skip
        return ",".join(words)

    def _realm(self) -> str:
        if self.token_socket is None:
            return ",".join(["rme-guest,id=rme0", *self.guest])
        # Only JSON can express it.
        address = {"type": "unix", "path": str(self.token_socket)}
        properties = {"qom-type": "rme-guest", "id": "rme0"}
        return json.dumps({**properties, "attestation-token-socket": address})


@final
class Realm(Watched):
    """A running machine.  Use start()."""

    def __init__(self, profile: str, files: RestrictedFiles, guest: BareGuest) -> None:
        super().__init__(profile, profiles()[profile].layout, files)
        self.guest = guest
        self.process: QemuProcess

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        qemu: Path,
        kernel: Path,
        run_dir: Path,
        *,
        profile: str = "cca",
        guest: Sequence[str] = (),
        token_socket: Path | None = None,
        cpu: str = "max",
        options: Sequence[str] = (),
    ) -> AsyncIterator["Realm"]:
        """Boot the guest and wait for its greeting.  *guest* are properties of the realm.

        Leaving the block without an error checks the whole journal against the table.
        """
        async with AsyncExitStack() as stack:
            pairs = [socket.socketpair() for _ in range(2)]
            for pair in pairs:
                stack.callback(pair[0].close)
                stack.callback(pair[1].close)
            (qmp, qmp_far), (agent, agent_far) = pairs
            layout = profiles()[profile].layout
            files = stack.enter_context(RestrictedFiles.create(MEMORY_BYTES, layout=layout))
            self = cls(profile, files, BareGuest(agent))
            stack.callback(self.ring.close)
            machine = MachineWords(qemu, kernel, profile, cpu, guest, token_socket, options)
            argv = machine.argv(files.fds, qmp_far.fileno(), agent_far.fileno())
            self.process = QemuProcess(
                argv,
                pass_fds=[*files.fds.all, qmp_far.fileno(), agent_far.fileno()],
                log_path=run_dir / "qemu.log",
            )
            stack.callback(self.process.kill)
            for pair in pairs:
                pair[1].close()
            self.qmp = await stack.enter_async_context(
                Qmp.connect(qmp, log_path=run_dir / "qmp.jsonl")
            )
            self.guest.wait_hello()
            yield self
            await self.compare_books()
            if self.process.status is None:
                await self.qmp.execute_last("quit", timeout_s=10)
                assert await self.process.wait_for(10) == 0

    def smc(self, *x: int) -> Answer:
        """Make a call that must not fault."""
        answer = self.guest.run("smc", *x)
        assert not isinstance(answer, Fault), answer
        return Answer(answer)

    def set_ripas(self, base: int, pages: int, ripas: int, flags: int = 0) -> Answer:
        """Ask for another RIPAS."""
        return self.smc(STATE_SET, base, base + pages * PAGE_SIZE, ripas, flags)

    def ripas(self, ipa: int) -> int:
        """Return the RIPAS of a page."""
        answer = self.smc(STATE_GET, ipa, ipa + PAGE_SIZE)
        assert answer.x[:2] == (SUCCESS, ipa + PAGE_SIZE)
        return answer.x[2]

    def share(self, ipa: int, pages: int = 1) -> None:
        """Make pages EMPTY."""
        answer = self.set_ripas(ipa, pages, EMPTY)
        assert answer.x[:3] == (SUCCESS, ipa + pages * PAGE_SIZE, ACCEPT)

    def state(self, ipa: int) -> PageState:
        """Return the state of a page."""
        return self.table.state((ipa - RAM_BASE) // PAGE_SIZE)

    async def change(self, verb: str, ipa: int, **arguments: str) -> None:
        """Run restricted-memory-*verb* on a page."""
        ranges = [{"gpa": ipa, "size": PAGE_SIZE}]
        await self.qmp.execute(
            f"restricted-memory-{verb}", {"id": "ram0", "ranges": ranges, **arguments}
        )
