# SPDX-License-Identifier: GPL-2.0-or-later
"""The fakes are held to what they stand for: the ABI, the schema and the rules."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cvmlab.base.resources import plugin_dir
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.memory.journal import Ring
from cvmlab.memory.measures import MEASURES
from cvmlab.memory.records import RECORD, Actor, Kind, Phase
from cvmlab.memory.states import Layout, PageState, RefusalCode
from cvmlab.vm.operations import BackendInfo
from tests.fakes import fake_memory, fake_qemu
from tests.fakes.fake_memory import FakeMemory, Refused


SCHEMA = (plugin_dir() / "qapi" / "restricted-memory.json").read_text()


@pytest.fixture
def files() -> Iterator[RestrictedFiles]:
    with RestrictedFiles.create(1 << 20, layout=Layout.IN_PLACE, ring_records=64) as made:
        yield made


@pytest.fixture
def memory(files: RestrictedFiles) -> Iterator[FakeMemory]:
    properties = {
        "id": "ram0", "profile": "generic", "layout": "in-place",
        "table-fd": str(files.fds.table), "ring-fd": str(files.fds.ring),
    }  # fmt: skip
    made = FakeMemory(properties, 1 << 20)
    with closing(made.table), closing(made.ring):
        yield made


def test_it_knows_the_schemas_commands_and_no_others() -> None:
    assert set(fake_qemu.RESTRICTED) == set(re.findall(r"'command': '([^']+)'", SCHEMA))


def test_its_numbers_are_the_abis() -> None:
    assert fake_memory.RECORD.size == RECORD.itemsize
    assert {word: slot for slot, word in enumerate(fake_memory.COUNTER_NAMES)} == {
        MEASURES[name].word: slot for name, slot in MEASURES.slots.items()
    }
    assert list(fake_memory.STATES) == [state.word for state in PageState]
    kinds = {Kind.ACCEPT, Kind.CONVERT, Kind.DISCARD, Kind.POISON, Kind.HOST_FAULT, Kind.PHASE}
    assert kinds == {
        fake_memory.ACCEPT, fake_memory.CONVERT, fake_memory.DISCARD, fake_memory.POISON,
        fake_memory.HOST_FAULT, fake_memory.PHASE_BEGINS,
    }  # fmt: skip


def test_a_record_of_its_is_read_field_by_field(files: RestrictedFiles, memory: FakeMemory) -> None:
    memory.push(
        Kind.CONVERT, 0x5000, 7, actor=Actor.MONITOR, before=PageState.PRIVATE,
        after=PageState.SHARED, flags=1,
    )  # fmt: skip
    with closing(Ring(files.fds.ring)) as ring:
        ring.require_header()
        (record,) = ring.peek().copy()
    fields = {name: int(record[name]) for name in RECORD.names or ()}
    assert fields["vtime_ns"] == fields["htime_ns"] > 0
    expected = {
        "seq": 1, "gpa": 0x5000, "pages": 7, "vcpu": 0xFFFF, "device": 0xFFFF,
        "kind": Kind.CONVERT, "actor": Actor.MONITOR, "from": PageState.PRIVATE,
        "to": PageState.SHARED, "flags": 1, "rip": 0, "verdict": 0, "refusal": 0,
    }  # fmt: skip
    assert {name: fields[name] for name in expected} == expected


def test_its_description_has_every_member_of_the_schema(memory: FakeMemory) -> None:
    info = memory.info()
    for struct, member in (
        ("Info", info),
        ("Counters", info["counters"]),
        ("Pages", info["pages"]),
    ):
        found = re.search(
            rf"'struct': 'RestrictedMemory{struct}',\s*'data': {{(.*?)}} }}", SCHEMA, re.S
        )
        assert found is not None
        assert isinstance(member, dict)
        assert set(member) == set(re.findall(r"'([a-z-]+)':", found.group(1)))
    msgspec.convert(info, BackendInfo)


def test_its_table_ring_and_counters_agree(files: RestrictedFiles, memory: FakeMemory) -> None:
    memory.begin_phase(Phase.KERNEL)
    memory.touch(3, 5)
    memory.touch(3, 5)
    assert memory.change("convert", [{"gpa": 0x3000, "size": 0x2000}], "shared") == 2
    assert memory.change("discard", [{"gpa": 0x5000, "size": 0x1000}]) == 1
    with closing(Ring(files.fds.ring)) as ring:
        counters = ring.counters()
        assert ring.page_counts() == files.page_table().counts()
        assert ring.phase is Phase.KERNEL
        assert (counters["accepted"], counters["to_shared"]) == (5, 2)
        assert ring.waiting == 1 + 5 + 2


@pytest.mark.parametrize(
    ("gpa", "size", "reason"),
    [(1, 4096, "aligned"), (0, 0, "aligned"), (0, 2 << 20, "out-of-range"), (0, 8192, "poisoned")],
)
def test_it_refuses_what_the_plugin_refuses(
    memory: FakeMemory, gpa: int, size: int, reason: str
) -> None:
    memory.change("poison", [{"gpa": 4096, "size": 4096}])
    before = bytes(memory.table)
    with pytest.raises(Refused, match=reason):
        memory.change("convert", [{"gpa": gpa, "size": size}], "shared")
    assert bytes(memory.table) == before
    assert RefusalCode.PAGE_POISONED.word == "page-poisoned"


def test_its_ring_drops_when_it_is_full(files: RestrictedFiles, memory: FakeMemory) -> None:
    memory.push_many(70)
    with closing(Ring(files.fds.ring)) as ring:
        assert (ring.waiting, ring.dropped) == (64, 6)
        seqs = ring.peek()["seq"].copy()
    assert np.array_equal(seqs, np.arange(1, 65))


def test_it_needs_nothing_but_the_standard_library() -> None:
    for module in (fake_memory, fake_qemu):
        assert module.__file__ is not None
        text = Path(module.__file__).read_text()
        imported = re.findall(r"^(?:import|from) (\w+)", text, re.M)
        assert not set(imported) & {"numpy", "msgspec", "qemu", "cvmlab"}
