# SPDX-License-Identifier: GPL-2.0-or-later
"""Which lines on a console are the kernel's, and what they mean."""

import pytest

from cvmlab.listening.kernel_log import NO_TROUBLE, KernelLog


PANIC = "Kernel panic - not syncing: Attempted to kill init!"


def fed(*lines: str, fail_on: tuple[str, ...] = ()) -> KernelLog:
    log = KernelLog(fail_on)
    log.feed("".join(f"{line}\n" for line in lines))
    return log


@pytest.mark.fault("V6")
@pytest.mark.parametrize(
    "prefix",
    ["[    1.234567] ", "[12345.000001] ", "[    1.234567][    T1] ", "<0>[    1.234567] "],
)
def test_a_stamped_line_is_the_kernels(prefix: str) -> None:
    assert fed(f"{prefix}{PANIC}").panic == PANIC


@pytest.mark.fault("V6")
def test_what_a_program_prints_is_no_panic() -> None:
    assert fed("[    0.100000] Run /init", PANIC).panic is None
    assert fed("[    0.100000] Run /init", f"test: {PANIC}", f"[1] {PANIC}").panic is None


@pytest.mark.fault("V6")
def test_a_kernel_without_stamps_is_believed_until_a_program_runs() -> None:
    assert fed("Booting", PANIC).panic == PANIC
    log = KernelLog()
    log.hello()
    log.feed(f"{PANIC}\n")
    assert log.panic is None


def test_a_panic_is_told_when_its_line_is_whole_and_where_it_began() -> None:
    log = KernelLog()
    log.feed("one\n[    1.000000] Kernel panic - not syncing: ")
    assert log.panic_at == 0
    log.feed("VFS\n")
    assert (log.panic, log.panic_at) == ("Kernel panic - not syncing: VFS", 4)


@pytest.mark.fault("V6")
@pytest.mark.parametrize(
    "sign", ["[    0.000000] Linux version 6.12", "[    0.300000] anything", "hello"]
)
def test_a_crash_kernel_is_seen(sign: str) -> None:
    log = fed(f"[    9.000000] {PANIC}", "[    9.000001] CPU: 0 PID: 1 Comm: init")
    assert (log.panic, log.survived) == (PANIC, [])
    if sign == "hello":
        log.hello()
    else:
        log.feed(f"{sign}\n")
    assert (log.panic, log.survived, log.panic_is_over) == (None, [PANIC], False)


def test_a_panic_that_nothing_follows_is_over() -> None:
    log = fed(f"[    9.000000] {PANIC}", f"[    9.100000] ---[ end {PANIC} ]---")
    assert (log.panic, log.panic_is_over) == (PANIC, True)


# As Linux 5.10 to 7 prints them.
TROUBLES = (
    "BUG: kernel NULL pointer dereference, address: 0000000000000000",
    "Oops: 0002 [#1] PREEMPT SMP NOPTI",
    "Oops: Oops: 0002 [#1] SMP",
    "general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1] SMP",
    "invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
    "kernel BUG at mm/slub.c:4000!",
    "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [insmod:77]",
    "watchdog: Watchdog detected hard LOCKUP on cpu 0",
    "rcu: INFO: rcu_preempt self-detected stall on CPU",
    "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
    "rcu: INFO: rcu_sched detected expedited stalls on CPUs/tasks: { 1-... }",
    "BUG: KASAN: slab-out-of-bounds in kmalloc_oob_right+0x10/0x20",
    "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 30s!",
    "UBSAN: array-index-out-of-bounds in lib/test_ubsan.c:10:2",
    "WARNING: possible circular locking dependency detected",
    "WARNING: possible irq lock inversion dependency detected",
    "WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected",
    "WARNING: suspicious RCU usage",
    "INFO: task cat:123 blocked for more than 120 seconds.",
)
CALM = (
    "WARNING: CPU: 0 PID: 1 at arch/x86/kernel/fpu/xstate.c:1 x+0x1/0x2",
    "[Firmware Bug]: TSC ADJUST: CPU0: -1 force to 0",
    "..MP-BIOS bug: 8254 timer not connected to IO-APIC",
    "Debug: BUG is spelled here",
    "DEBUG: nothing",
    "x86/mm: Memory block size: 128MB",
)


@pytest.mark.fault("F17")
@pytest.mark.parametrize("line", TROUBLES)
def test_trouble_of_the_kernel_is_seen(line: str) -> None:
    assert fed(f"[    5.000000] {line}").trouble == [line]


@pytest.mark.fault("F17")
def test_a_calm_kernel_and_a_loud_program_are_no_trouble() -> None:
    calm = [f"[    5.000000] {line}" for line in CALM]
    assert fed(*calm, *TROUBLES).trouble == []


@pytest.mark.fault("F17")
def test_more_lines_may_be_trouble_and_fewer() -> None:
    lines = ("[    5.000000] x: timed out", "[    5.000000] Oops: 0002 [#1]")
    assert fed(*lines, fail_on=("timed out",)).trouble == ["x: timed out", "Oops: 0002 [#1]"]
    assert fed(*lines, fail_on=(NO_TROUBLE, "timed out")).trouble == ["x: timed out"]
    assert fed(*lines, fail_on=(NO_TROUBLE,)).trouble == []


@pytest.mark.fault("V10")
def test_what_firmware_says_is_understood() -> None:
    refused = 'BdsDxe: failed to load Boot0001 "disk" from PciRoot(0x0): Access Denied'
    log = fed(refused)
    assert (log.refusal, log.firmware_gave_up) == (refused, False)
    log.feed("\x1b[2J\x1b[01;01HBdsDxe: No bootable option or device was found.\n")
    assert log.firmware_gave_up
    assert not fed("[    0.000000] Linux", "BdsDxe: No bootable option or device").firmware_gave_up


def test_what_a_guest_writes_is_made_harmless_and_bounded() -> None:
    line = "[    1.000000] Kernel panic - not syncing: \x1b]0;title\x07\x1b[31mred\x07"
    assert fed(line).panic == "Kernel panic - not syncing: red\\x07"
    log = KernelLog()
    for _ in range(100):
        log.feed("x" * 65536)
    assert len(log._rest) < 4096
    log.feed(f"\n[    1.000000] {PANIC}\n")
    assert (log.panic, log.panic_at) == (PANIC, 100 * 65536 + 1)
    assert len(fed(*(f"[    1.000000] Oops: {n}" for n in range(100))).trouble) == 16
