# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock arm64 kernels as CCA realms: what they call, what reaches their memory, and what hosts do to them.

The first test builds QEMU for aarch64 if it is not there: minutes, from nothing.
"""

import asyncio
import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cvmlab.base.channel import Subscription
from cvmlab.base.errors import CommandRefused, DeadlineExceeded
from cvmlab.images.boot_files import resolve
from cvmlab.memory.page_check import StateRun
from cvmlab.memory.states import PageState
from cvmlab.pki.pki_folder import save
from cvmlab.profiles.architecture import AARCH64
from cvmlab.qemu.build import install, rom_dirs
from cvmlab.qemu.recipe import Flavour
from cvmlab.vm.outcome import End, VmOutcome
from cvmlab.vm.qmp import QmpEvent
from cvmlab.vm.vm import Vm
from tests.cca_verifier import TokenError, verified
from tests.fakes.pkis import small_pki
from tests.guest.evidence import DATA, evidence
from tests.guest.program import Done, cvmlab


pytestmark = [
    pytest.mark.guest,
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.usefixtures("state_home"),
]

SID = "debian-arm64-sid"  # Linux 7.2
DEADLINE_S = 180
DISK_BYTES = 4 << 20
# 64 MiB of bounce buffers, five tables of the interrupt controller, the pool for atomic DMA.
SHARED_PAGES = (64 << 20 >> 12) + 5 * 16 + 32
# A device has the top bit of a realm's addresses; without it, the first access would be the last.
EARLY_CONSOLE = "earlycon=pl011,mmio32,0x800009000000"
_DUMPED_BYTE = re.compile(r"(?<=\s)0x([0-9a-f]{2})\b")
EXAMPLE = Path(__file__).parents[2] / "examples" / "arm-realms.toml"


@pytest.fixture(scope="module", autouse=True)
def qemu() -> None:
    """Build the emulator before the first boot is timed."""
    install(Flavour.PATCHED, architecture=AARCH64)


def boot(*words: str, code: int = 0) -> Done:
    """Boot a realm as words say, and see how it ends."""
    done = cvmlab("boot", "--coco", "cca", "--json", "-", *words)
    assert done.code == code, done.err
    return done


def realm(command: str, *modules: str, append: str = "", **options: Any) -> Vm:
    """Return a realm that will run a command."""
    guest = resolve(SID, exec_command=command, extra_modules=modules)
    return Vm(
        coco="cca", kernel=guest.kernel, initrd=guest.initrd, append=f"{guest.append} {append}",
        memory="512M", rom_dirs=tuple(rom_dirs(AARCH64)), **options,
    )  # fmt: skip


async def ended_well(vm: Vm) -> VmOutcome:
    outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
    assert (outcome.end, outcome.guest_status) == (End.POWERED_OFF, 0), vm.console.last_lines()
    return outcome


async def seen(events: Subscription[QmpEvent], name: str, times: int = 1) -> None:
    """Wait until QEMU has sent that event so often."""
    async with asyncio.timeout(DEADLINE_S):
        async for event in events:
            times -= event.name == name
            if not times:
                return


def test_the_profile_alone_boots_a_kernel_that_knows_that_it_is_a_realm() -> None:
    command = "dmesg | grep RSI; test -e /sys/bus/platform/devices/arm-cca-dev"
    result = boot("--exec", command).result
    assert "RME: Using RSI version 1.0" in (result.output or "")
    assert (result.architecture, result.firmware, result.late) == ("aarch64", "direct", False)
    assert result.evidence is not None
    assert result.evidence.spoke
    assert result.counters.host_faults == 0


def test_a_boot_by_edk2_is_labelled_late() -> None:
    done = boot(SID, "--firmware", "ovmf", "--cpus", "2", "--exec", "test $(nproc) = 2")
    assert done.result.late
    assert "the firmware ran unprotected" in done.err
    assert done.result.counters.host_faults == 0


@pytest.mark.parametrize(("cpus", "sets", "shared"), [(1, 8, 0), (2, 9, 16), (4, 11, 48)])
async def test_the_calls_of_a_boot_are_those_of_linux(cpus: int, sets: int, shared: int) -> None:
    """Each CPU after the first has one more table of 64 KiB.  docs/arm.md explains the rest."""
    async with realm("true", cpus=cpus, extra=("-trace", "rmem_rsi")) as vm:
        await ended_well(vm)
        log = (vm.run.path / "qemu.log").read_text()
        counters = vm.pages.counters()
    calls = Counter(re.findall(r"RSI_\w+", log))
    assert calls.pop("RSI_IPA_STATE_GET") >= 11
    assert calls == {"RSI_VERSION": 1, "RSI_REALM_CONFIG": 1, "RSI_IPA_STATE_SET": sets}
    assert (counters["to_shared"], counters["to_private"]) == (SHARED_PAGES + shared, 0)
    assert (counters["host_faults"], counters["guest_faults"]) == (0, 0)


def test_a_kernel_that_does_not_know_realms_is_told_of() -> None:
    done = boot("debian-arm64", "--timeout", "60", "--exec", "true", code=87)
    assert done.result.message.startswith("the guest's kernel never asked for RSI")
    assert "that came with 6.13" in (done.result.hint or "")
    boot("debian-arm64", "--timeout", "60", "--exec", "true", "--allow-unaware", code=83)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, reversed."""
    writer.write((await reader.readexactly(DISK_BYTES))[::-1])
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("firmware", ["direct", "ovmf"])
async def test_disks_and_network_are_the_same_on_both_sides(tmp_path: Path, firmware: str) -> None:
    content = os.urandom(DISK_BYTES)
    for name in ("vda", "nvme0n1"):
        (tmp_path / name).write_bytes(content)
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    command = f"""
    wait-for /dev/vda && wait-for /dev/nvme0n1 && cat /dev/vda >/tmp/vda && cat /dev/nvme0n1 | cmp - /tmp/vda &&
    head -c {DISK_BYTES} /dev/urandom >/tmp/new && cat /tmp/new >/dev/vda && cat /tmp/new >/dev/nvme0n1 && sync &&
    ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0 && nc 10.0.2.2 {port} </tmp/vda >/tmp/back &&
    sha256sum /tmp/vda /tmp/back"""
    drives = [
        word
        for name in ("vda", "nvme0n1")
        for word in ("-drive", f"if=none,id={name},format=raw,file={tmp_path}/{name}")
    ]
    devices = ("virtio-blk-pci,drive=vda", "nvme,drive=nvme0n1,serial=1")
    async with (
        server,
        realm(
            command, "virtio_blk", "virtio_net", firmware=firmware, net="user", devices=devices,
            extra=tuple(drives),
        ) as vm,
    ):  # fmt: skip
        await ended_well(vm)
        said = vm.command_output.text or ""
        counters = vm.pages.counters()
    digests = [line.split()[0] for line in said.splitlines() if line.endswith(("/vda", "/back"))]
    assert digests == [hashlib.sha256(part).hexdigest() for part in (content, content[::-1])]
    written = [(tmp_path / name).read_bytes() for name in ("vda", "nvme0n1")]
    assert written[0] == written[1] != content
    assert counters["host_faults"] == 0


def test_a_part_at_a_time_and_retries_are_borne() -> None:
    usual = boot(SID, "--exec", "true").result.counters
    partly = boot(SID, "--ripas", "partial:4M", "--exec", "true").result
    assert partly.ripas == "max:4M"
    assert partly.counters.to_shared == usual.to_shared
    # A GiB of RAM and 64 MiB of bounce buffers, 4 MiB a call
    assert partly.counters.kernel_calls == usual.kernel_calls + 255 + 15
    again = boot(SID, "--ripas", "retry:3", "--exec", "true").result.counters
    assert again.kernel_calls == usual.kernel_calls + 3 * 8


def test_a_host_that_rejects_ram_has_the_kernel_panic() -> None:
    done = boot(SID, "--ripas", "refuse", "--append", EARLY_CONSOLE, "--exec", "true", code=255)
    assert "Failed to set memory range to protected" in done.result.message
    (refused,) = done.result.refused
    assert (refused.reason, refused.requests) == ("by-policy", 1)
    assert "answered by --ripas" in (done.result.hint or "")


WORK = "echo ready; read told </dev/console; find / -xdev -type f | xargs cat >/dev/null 2>&1; true"


async def largest_private(vm: Vm) -> StateRun:
    private = (run for run in await vm.query_runs() if run.state is PageState.PRIVATE)
    return max(private, key=lambda run: run.range.size)


async def test_what_the_host_destroys_stops_the_realm() -> None:
    async with realm(WORK) as vm:
        await vm.wait_for("ready", timeout_s=DEADLINE_S)
        kernel = (await largest_private(vm)).range
        assert await vm.discard(kernel) == kernel.size >> 12
        with vm.qmp_events() as events:
            await vm.send("\n")
            await seen(events, "RESTRICTED_MEMORY_STOPPED")
        stopped = (await vm.query()).stopped
        assert stopped is not None
        assert "whose RIPAS is DESTROYED" in stopped.text
        await vm.stop()


async def test_what_the_host_converts_is_an_abort_at_each_touch() -> None:
    async with realm(WORK) as vm:
        await vm.wait_for("ready", timeout_s=DEADLINE_S)
        await vm.convert((await largest_private(vm)).range, "shared")
        await vm.send("\n")
        with pytest.raises(DeadlineExceeded):
            await vm.wait_exit(timeout_s=3)
        assert vm.pages.counters()["guest_faults"] > 0
        await vm.stop()


async def test_it_outlives_its_qemu_and_goes_back_in_time(tmp_path: Path) -> None:
    command = "echo first; read told </dev/console; echo told; test $(nproc) = 2"
    async with realm(command, cpus=2) as vm:
        await vm.wait_for("first", timeout_s=DEADLINE_S)
        upgrade = await vm.upgrade()
        assert upgrade.old_pid != upgrade.new_pid
        moment = await vm.checkpoint("moment")
        await vm.rewind(moment)
        await vm.save(tmp_path / "saved")
        (copy,) = await vm.fork(1)
        async with copy, Vm.restore(tmp_path / "saved") as restored:
            for one in (vm, copy, restored):
                await one.send("\n")
                await ended_well(one)


async def test_a_reboot_is_a_fresh_launch() -> None:
    async with realm("echo up; reboot -f", allow_reboot=True) as vm:
        with vm.qmp_events() as events:
            await seen(events, "RESET", times=2)
        await vm.stop()
        assert vm.pages.counters()["guest_faults"] == 0


def test_what_was_recorded_is_executed_again(tmp_path: Path) -> None:
    boot(SID, "--record", str(tmp_path / "record"), "--exec", "echo hello")
    done = cvmlab("replay", str(tmp_path / "record"))
    assert done.code == 0, done.err
    assert "the journals are identical" in done.out + done.err


def test_a_warm_boot_is_refused_with_a_reason() -> None:
    done = cvmlab("boot", "--coco", "cca", "--warm", "--exec", "true")
    assert done.code == 85
    assert "its serial port stops QEMU" in done.err


def found(fd: int, words: list[bytes]) -> list[bool]:
    """Say which of *words* a file has.  A mapping would give a memory file storage for its holes."""
    size, step, overlap = os.fstat(fd).st_size, 16 << 20, max(map(len, words))
    parts = (os.pread(fd, step + overlap, at) for at in range(0, size, step))
    seen = {word for part in parts for word in words if word in part}
    return [word in seen for word in words]


def place_of(fd: int, word: bytes) -> int:
    """Return the offset of *word*, which is not cut by a page of 1 MiB."""
    step = 1 << 20
    places = range(0, os.fstat(fd).st_size, step)
    return next(at + part.index(word) for at in places if word in (part := os.pread(fd, step, at)))


async def look_by_the_monitor(vm: Vm, gpa: int) -> None:
    """Have the monitor show what is at *gpa*, by its address, and by a CPU: it gets nothing, or zeros."""
    for line in (f"xp /64bx {gpa:#x}", f"x /64bx {gpa:#x}"):
        try:
            shown = str(await vm.qmp("human-monitor-command", command_line=line))
        except CommandRefused as error:
            shown = str(error)
        assert bytes.fromhex("".join(_DUMPED_BYTE.findall(shown))) in (b"", bytes(64)), line
    where = {"val": gpa, "size": 64, "filename": str(vm.run.path / "page")}
    for command in ("pmemsave", "memsave"):
        with pytest.raises(CommandRefused):
            await vm.qmp(command, **where)


async def test_a_secret_is_in_no_memory_and_no_dump_of_the_host(tmp_path: Path) -> None:
    """The guest makes the secrets, so that no file that it was given has them."""
    command = """
    for i in 1 2 3; do echo seed $i | sha256sum | cut -c 1-64 >>/tmp/secret; done
    cat /tmp/secret >/tmp/again; echo ready; read told </dev/console"""
    secrets = [hashlib.sha256(f"seed {i}\n".encode()).hexdigest().encode() for i in (1, 2, 3)]
    async with realm(command, net="user") as vm:
        await vm.wait_for("ready", timeout_s=DEADLINE_S)
        fds = vm.memory_files.fds
        assert fds.shared is not None
        assert found(fds.private, secrets) == [True] * 3  # the search works
        assert found(fds.shared, secrets) == [False] * 3
        await look_by_the_monitor(vm, 0x4000_0000 + place_of(fds.private, secrets[0]))
        dump = tmp_path / "dump"
        with pytest.raises(CommandRefused, match="is private"):
            await vm.qmp("pmemsave", val=0x4000_0000, size=512 << 20, filename=str(dump))
        with dump.open("rb") as file:
            assert found(file.fileno(), secrets) == [False] * 3
        assert vm.pages.counters()["host_faults"] > 0  # the monitor's, denied
        await vm.send("\n")
        await ended_well(vm)


def test_a_realms_token_is_signed_and_verified(tmp_path: Path) -> None:
    save(small_pki(), tmp_path / "pki")
    cpak = small_pki().cca.cpak.ec_key.public_key()
    words = (SID, "--coco", "cca", "--coco-option", "measurement-algorithm=sha256")
    personal = ("--coco-option", "personalization-value=" + "QUFB" * 21 + "QQ==")
    signed = (*words, *personal, "--attest", str(tmp_path / "pki"))
    got = [evidence(tmp_path / f"run{number}", *signed) for number in range(2)]
    assert got[0].provider == "arm_cca_guest"
    token = verified(got[0].blob, cpak)
    assert (token.realm[10], token.realm[44235], token.realm[44236]) == (DATA, b"A" * 64, "sha-256")
    assert len(token.realm[44238]) == 32
    assert token.realm[44238] != bytes(32)
    assert token.realm[44239] == [bytes(32)] * 4
    assert got[1].blob == got[0].blob  # each launch has the same measurement
    for place in range(0, len(got[0].blob), 97):
        changed = bytearray(got[0].blob)
        changed[place] ^= 1
        with pytest.raises(TokenError):
            verified(bytes(changed), cpak)


@pytest.mark.parametrize("fault", ["truncate", "slow:2"])
def test_without_a_root_a_token_is_plainly_fake(tmp_path: Path, fault: str) -> None:
    """A late one comes after calls that are INCOMPLETE, and is whole."""
    words = ("--coco", "cca", "--quotes", "--quote-fault", fault)
    got = evidence(tmp_path / "run", SID, *words)
    assert b"FAKE" in got.blob or fault == "truncate"
    assert b"emulated" in got.blob
    with pytest.raises(TokenError):
        verified(got.blob, small_pki().cca.cpak.ec_key.public_key())


def test_the_example_boots_eight_kernels_both_ways(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cvmlab", "matrix", str(EXAMPLE), "--run-dir", str(tmp_path / "m")],
        capture_output=True, text=True, timeout=3000, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
