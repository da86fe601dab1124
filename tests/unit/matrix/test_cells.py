# SPDX-License-Identifier: GPL-2.0-or-later
"""From a document to its cells, and which of them a shard has."""

import tomllib
from pathlib import Path

import msgspec
import pytest
import typer.main

from cvmlab.base.documents import read
from cvmlab.base.errors import ConfigError
from cvmlab.cli import app
from cvmlab.matrix import cells
from cvmlab.matrix.cells import Cell
from cvmlab.matrix.document_schema import Boot, Matrix, parse
from cvmlab.profiles.architecture import X86_64


def expanded(text: str) -> tuple[Cell, ...]:
    raw = parse(tomllib.loads(text), where="m", folder=Path("/here"))
    return cells.expand(read(raw, Matrix, where="m"), dict.fromkeys(("debian", "other"), X86_64))


def test_cells_are_all_combinations_in_the_order_of_the_axes() -> None:
    found = expanded('[axes]\nguest = ["debian", "other"]\ncoco = ["off", "tdx"]\ncpus = [1, 2]')

    assert [cell.id for cell in found[:4]] == [
        "debian/off/seabios/deny/1cpu/1G",
        "debian/off/seabios/deny/2cpus/1G",
        "debian/tdx/seabios/deny/1cpu/1G",
        "debian/tdx/seabios/deny/2cpus/1G",
    ]
    assert [cell.number for cell in found] == list(range(1, 9))


def test_the_words_of_a_cell_are_those_of_cvmlab_boot() -> None:
    (cell,) = expanded(
        '[axes]\nguest = ["mine"]\ncoco = ["tdx"]\n[guest.mine]\nimage = "debian"\n'
        'disk = ["a.img", "/b.img"]\nextra = ["--keep"]\nappend = "-- x"\n[run]\ntb-cache = "64M"\n'
        '[defaults]\nmax-accepts = ["kernel=5", 7]\ntimeout = 2.5\nexpect = "log.n"\n'
    )

    assert cell.words == (
        "debian", "--tb-cache=64M", "--expect=log.n", "--timeout=2.5", "--max-accepts=kernel=5",
        "--max-accepts=7", "--name=mine", "--append=-- x", "--disk=/here/a.img", "--disk=/b.img", "--keep",
        "--coco", "tdx", "--firmware", "seabios", "--memory", "1G", "--cpus", "1",
        "--on-host-access", "deny",
    )  # fmt: skip
    assert cell.timeout_s == 2.5
    assert cell.memory_bytes == (1 << 30) + (64 << 20) + (256 << 20)


def test_every_option_of_a_document_is_one_of_cvmlab_boot() -> None:
    boot = typer.main.get_command(app).commands["boot"]  # type: ignore[attr-defined]
    known = {word for parameter in boot.params for word in parameter.opts}
    fields = {field.encode_name for field in msgspec.structs.fields(Boot)} - {"image", "extra"}

    assert {f"--{name}" for name in fields} - known == set()


@pytest.mark.parametrize(("text", "words"), [("true", ["--quotes"]), ("false", [])])
def test_a_switch_is_a_word_or_none(text: str, words: list[str]) -> None:
    (cell,) = expanded(f'[axes]\nguest = ["debian"]\n[defaults]\nquotes = {text}')

    assert [word for word in cell.words if "quotes" in word] == words


def test_rules_go_over_guests_and_guests_over_defaults_and_the_last_rule_wins() -> None:
    first, second = expanded(
        '[axes]\nguest = ["mine"]\ncpus = [1, 2]\n[defaults]\nexec = "a"\nnet = "user"\n'
        '[guest.mine]\nexec = "b"\n[[rule]]\nexec = "c"\n[[rule]]\nwhen = { cpus = 2 }\nexec = "d"\n'
    )

    assert first.words[:3] == ("--exec=c", "--net=user", "--name=mine")
    assert second.words[:3] == ("--exec=d", "--net=user", "--name=mine")


def test_conditions_hold_on_all_axes_named_unless_the_other_does() -> None:
    found = expanded(
        '[axes]\nguest = ["debian"]\ncoco = ["generic", "tdx"]\nfirmware = ["seabios", "ovmf"]\n'
        '[[rule]]\nwhen = { coco = ["tdx", "off"] }\nunless = { firmware = "ovmf" }\n'
        'ignore = "no"\n[[rule]]\nwhen = { firmware = "ovmf" }\nunstable = "slow"\n'
    )

    assert [(cell.ignored, cell.unstable) for cell in found] == [
        (None, None), (None, "slow"), ("no", None), (None, "slow"),
    ]  # fmt: skip


def test_what_no_boot_can_be_is_ignored_with_the_reason() -> None:
    generic, tdx = expanded(
        '[axes]\nguest = ["debian"]\ncoco = ["generic", "tdx"]\non-host-access = ["share"]\n'
    )

    assert generic.ignored is None
    assert tdx.ignored == "--on-host-access share needs layout in-place, but tdx has layout split"


def test_firmware_that_only_another_architecture_has_is_ignored_where_the_guests_is_known() -> None:
    found = expanded(
        '[axes]\nguest = ["any", "arm"]\ncoco = ["off"]\nfirmware = ["seabios", "direct"]\n'
        '[guest.any]\nkernel = "k"\n[guest.arm]\nkernel = "k"\narch = "aarch64"\n'
    )

    assert [cell.ignored for cell in found] == [None, None, "aarch64 has no firmware seabios", None]
    assert "--arch=aarch64" in found[3].words


def test_shards_are_stable_even_and_whole() -> None:
    text = (
        '[axes]\nguest = ["debian", "other"]\ncoco = ["off", "generic", "tdx"]\n'
        'firmware = ["seabios", "ovmf"]\n[[rule]]\nwhen = { coco = "off", firmware = "ovmf" }\n'
        'ignore = "no"\n'
    )
    found = expanded(text)

    parts = [cells.shard(found, number, 3) for number in (1, 2, 3)]

    assert parts == [cells.shard(expanded(text), number, 3) for number in (1, 2, 3)]
    assert sorted(cell.number for part in parts for cell in part) == list(range(1, 13))
    runnable = [sum(cell.ignored is None for cell in part) for part in parts]
    assert max(runnable) - min(runnable) <= 1
    assert all(len({cell.axis.firmware for cell in part}) == 2 for part in parts)


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "1/2/3", "-1/2"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--shard must be I/N"):
        cells.parse_shard(text)
    assert cells.parse_shard("2/3") == (2, 3)
