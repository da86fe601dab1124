# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing that a host can say to QEMU is unclassed, and what is called refused is refused."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmlab.memory.records import FLAG_STATE, Actor, Kind, Verdict
from cvmlab.qemu.build import rom_dirs
from tests.qemu.conftest import Boot
from tests.qemu.cpustate import Looker
from tests.qemu.plain import machine
from tests.qemu.surface import FILE, Class, class_of, classes, named_twice, surface, unclassed
from tests.qemu.test_hotplug import with_two_cpus
from tests.qemu.test_refusals import refusal


pytestmark = [pytest.mark.qemu, pytest.mark.fault("L8")]

TEXT = FILE.read_text(encoding="utf-8")
KNOWN = classes(TEXT)
NAMED = [f"{kind} {name}" for one in KNOWN for kind, names in one.names.items() for name in names]
# What the human monitor wants to have parsed before it looks at the command.
ARGUMENTS = {
    "calc_dirty_rate": "1", "dump-guest-memory": "x", "gdbserver": "none", "gva2gpa": "0", "loadvm": "x",
    "mce": "0 9 0 0 0 0", "memsave": "0 8 x", "savevm": "x", "x": "/1bx 0",
}  # fmt: skip


NEVER_THERE = (
    "cannot be used with memory-backend-restricted",
    "is not a valid device model name",
    "No 'virtio-bus' bus found",
    "expects a pluggable device type",
)


@pytest.fixture(scope="module")
def asked(patched_qemu: Path) -> dict[str, set[str]]:
    """Return all that QEMU has."""
    return surface(patched_qemu)


def test_everything_is_classed(asked: dict[str, set[str]]) -> None:
    assert unclassed(asked, KNOWN) == []
    # Control: something was asked for.
    assert min(len(names) for names in asked.values()) > 30


def test_no_name_is_in_the_file_twice() -> None:
    assert named_twice(KNOWN) == []


@pytest.mark.parametrize("name", ["qmp memsave", "hmp xp", "device sp-mem", "option -gdb"])
def test_control_without_its_entry_a_name_is_missed(asked: dict[str, set[str]], name: str) -> None:
    kind, _, word = name.partition(" ")
    asked = {**asked, kind: asked[kind] | {word}}
    shorter = re.sub(rf'"{re.escape(word)}",?', "", TEXT)
    assert name in unclassed(asked, classes(shorter))
    assert name not in unclassed(asked, KNOWN)


def refused(kind: str, names: set[str]) -> Iterator[tuple[str, Class]]:
    """Yield the names of a kind that the file calls refused, with their class."""
    for name in sorted(names):
        found = class_of(kind, name, KNOWN)
        if found and found.answer == "refused":
            yield name, found


@pytest.mark.parametrize("coco", ["generic", "sev", "tdx", "sev-snp"])
async def test_what_is_called_refused_is_refused_and_journaled_once(
    boot: Boot, tmp_path: Path, asked: dict[str, set[str]], coco: str
) -> None:
    async with with_two_cpus(boot, coco) as vm:
        look = Looker(vm, tmp_path)
        await vm.events()
        for kind in ("qmp", "hmp"):
            for name, one in refused(kind, asked[kind]):
                hides = coco in ("tdx", "sev-snp")
                if one.reach == "state" and not hides:
                    continue
                line = f"{name} {ARGUMENTS.get(name, '')}"
                said = await (look.qmp(name) if kind == "qmp" else look.hmp(line))
                assert b"the host may not" in said, line
                (record,) = vm.records()
                assert (record["kind"], record["actor"]) == (Kind.HOST_FAULT, Actor.MONITOR), name
                assert record["verdict"] == Verdict.DENY
                assert bool(record["flags"] & FLAG_STATE) == (one.reach == "state"), name


def test_devices_that_are_called_refused_are_refused(
    patched_qemu: Path, asked: dict[str, set[str]]
) -> None:
    names = [name for name, _ in refused("device", asked["device"])]
    assert len(names) > 20
    for name in names:
        line = refusal([*machine(patched_qemu, rom_dirs()), "-device", name])
        # Some are only made by others, which are refused.
        assert any(sentence in line for sentence in NEVER_THERE), line
