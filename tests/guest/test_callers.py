# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports name who called: the same functions as the guest's own tracer names."""

import re

import pytest

from cvmlab.results.result import Outcome, Result
from tests.guest.program import cvmlab


pytestmark = pytest.mark.guest

DEPTH = 20  # functions that are compared of each chain
# The driver gives its queues back and takes new ones: each is a conversion.
TRACE = """
mount -t tracefs none /sys/kernel/tracing && cd /sys/kernel/tracing || exit 2
echo set_memory_decrypted > set_ftrace_filter
echo set_memory_encrypted >> set_ftrace_filter
echo 1 > options/func_stack_trace
echo function > current_tracer
for driver in virtio_blk virtio_net virtio_blk virtio_net; do
    cd /sys/bus/virtio/drivers/$driver || exit 3
    for device in virtio*; do
        echo $device > unbind
        echo $device > bind
    done
done
cd /sys/kernel/tracing
echo 0 > tracing_on
echo trace begins
cat trace
echo trace ends
sleep 1
"""


def stacks(console: str) -> list[list[str]]:
    """Return the stacks in the tracer's text: functions, the innermost first."""
    text = console.replace("\r", "").partition("trace begins")[2].partition("trace ends")[0]
    found: list[list[str]] = []
    for line in text.splitlines():
        if "<stack trace>" in line:
            found.append([])
        elif (match := re.match(r" => (\w\S*)", line)) and found:
            found[-1].append(match.group(1).partition("+")[0])
    return found


def bare(function: str) -> str:
    """Return the name without the module, which the tracer leaves out."""
    return function.partition(" ")[0]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, list[list[str]]]:
    """A TD with a disk and a network card: its result, and its own tracer's stacks."""
    folder = tmp_path_factory.mktemp("traced")
    disk = folder / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    done = cvmlab(
        "boot", "debian", "--coco", "tdx", "--disk", str(disk), "--net", "user",
        "--exec", TRACE, "--run-dir", str(folder / "run"), "--json", "-",
    )  # fmt: skip
    assert done.code == 0, done.err
    console = (folder / "run" / "console.log").read_text(errors="replace")
    return done.result, stacks(console)


@pytest.mark.fault("V3")
def test_a_stock_td_with_a_disk_names_who_had_its_memory_shared(
    traced: tuple[Result, list[list[str]]],
) -> None:
    shared = [item for item in traced[0].conversions if item.to == "shared"]
    drivers = {item.callers for item in shared}
    # The function that is blamed, with the driver behind it where an allocator is.
    callers = {name for item in shared for name in (item.symbol, *item.callers)}

    assert len(drivers) >= 5
    assert "__tdcall_saved_ret" not in callers
    assert {"mem_encrypt_init", "atomic_pool_expand", "dma_alloc_attrs"} <= callers
    assert {"virtblk_probe [virtio_blk]", "virtnet_probe [virtio_net]"} <= callers
    # A module's own initialization has no name: its code is gone. Above it the stack is scanned.
    guessed = {item.callers[item.guessed] for item in shared if item.guessed is not None}
    assert guessed <= {"do_one_initcall"}
    assert traced[0].unnamed == ()


@pytest.mark.fault("V3")
def test_chains_are_those_that_the_guests_own_tracer_saw(
    traced: tuple[Result, list[list[str]]],
) -> None:
    result, seen = traced
    told = [
        [bare(name) for name in (str(item.symbol), *item.callers)] for item in result.conversions
    ]

    assert len(seen) >= 10
    for stack in seen[:20]:
        # The tracer begins with the function that it traces, which is thin.
        above = [name for name in stack if not name.startswith(("set_memory_", "dma_direct_"))]
        depth = min(len(above), DEPTH)
        assert depth > 8
        assert above[:depth] in [chain[:depth] for chain in told]


@pytest.mark.fault("V1")
def test_a_module_is_named_in_a_guest_that_never_says_goodbye() -> None:
    """The first access of its network card stops it: what was loaded before the command is known."""
    words = ("--net", "user", "--on-host-access", "stop", "--exec", "ip link set eth0 up; sleep 60")
    done = cvmlab("boot", "debian-devices", *words, "--json", "-")
    assert (done.code, done.result.outcome) == (81, Outcome.HOST_FAULT)
    assert any("[virtio_net]" in (fault.symbol or "") for fault in done.result.faults)
    assert done.result.unnamed == ()


@pytest.mark.fault("F21")
def test_a_kernel_that_kaslr_has_moved_has_names() -> None:
    done = cvmlab("boot", "debian", "--coco", "tdx", "--append", "kaslr", "--json", "-")
    assert done.code == 0, done.err
    shared = [item for item in done.result.conversions if item.to == "shared"]
    assert {"mem_encrypt_init", "atomic_pool_expand"} <= {item.symbol for item in shared}
    assert done.result.unnamed == ()
