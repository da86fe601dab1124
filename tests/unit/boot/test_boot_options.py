# SPDX-License-Identifier: GPL-2.0-or-later
"""Every boot option on its way into all of its forms, and no form with an option of its own."""

import inspect
import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer.main

from cvmlab.base.documents import read
from cvmlab.boot.read_request import read_request
from cvmlab.boot.request import Request
from cvmlab.cli import app
from cvmlab.cli.boot import request_of
from cvmlab.images import recipes
from cvmlab.machine.option import PYTHON, Form, Option, ValueKind
from cvmlab.machine.option_rows import BY_NAME, OPTIONS, having
from cvmlab.machine.options import boot_spec, take_setting
from cvmlab.machine.spec import BootSpec
from cvmlab.matrix import cells
from cvmlab.matrix.document_schema import Axes, Boot, Matrix, parse
from cvmlab.profiles.architecture import X86_64
from cvmlab.testing import mark_options
from cvmlab.testing.vms import KNOWN_OPTIONS
from cvmlab.vm.launch import Setting
from cvmlab.vm.vm import WAIT_TIMEOUT_S, Vm
from tests.fakes import kernel_files


BOOT: Any = typer.main.get_command(app).commands["boot"]  # type: ignore[attr-defined]
BY_KIND = {
    ValueKind.TEXT: "text", ValueKind.PATTERN: "log.n", ValueKind.NUMBER: 3, ValueKind.SECONDS: 2.5,
    ValueKind.SIZE: "64M", ValueKind.LIMIT: "kernel=5", ValueKind.SWITCH: True, ValueKind.GDB: True,
    ValueKind.FIRMWARE: "ovmf", ValueKind.OBJECT: object(), ValueKind.ROW: "aarch64",
}  # fmt: skip
BY_OPTION = {
    "image": "debian",
    "mapgpa": "max:2M",
    "ripas": "max:2M",
    "coco_option": "gpaw=52",
    "attest_option": "pce-svn=9",
    "quote_fault": "slow:2",
}
# What makes a value of an option possible.
WITH: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("mapgpa", "coco_option", "quotes", "share", "attest"), ("--coco=tdx",)
)
WITH["quote_fault"] = ("--coco=tdx", "--quotes")
WITH["attest_option"] = ("--coco=tdx", "--attest=folder")
WITH["attest_serve"] = ("--coco=tdx", "--attest=folder")
WITH["arch"] = ("--coco=off",)
WITH["ripas"] = ("--coco=cca",)
# Words that exclude other options of this test.
UNFIT = {"coco": ("off", "cca")}
# What the guest's files decide: read_request() puts them with the guest, not into the machine.
OF_THE_GUEST = {"kernel", "initrd", "append", "share"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with a file of each kind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "disk.img").write_bytes(b"QFI\xfb" + bytes(508))
    (tmp_path / "file").write_bytes(kernel_files.elf({".note.pvh": kernel_files.pvh_note(0x1000)}))
    return tmp_path


def sample(option: Option) -> Any:
    """Return a value as people write it, which is not the default."""
    if option.kind is ValueKind.WORD:
        assert option.choices is not None
        words = [str(word) for word in option.choices()]
        unfit = {getattr(BootSpec(), option.target, None), *UNFIT.get(option.name, ())}
        return next(word for word in reversed(words) if word not in unfit)
    files = {ValueKind.DISK: "disk.img", ValueKind.FOLDER: "folder"}
    by_kind = {**dict.fromkeys(ValueKind, "file"), **files, **BY_KIND}
    return BY_OPTION.get(option.name, by_kind[option.kind])


def typed(option: Option) -> list[str]:
    if option.is_argument:
        return [sample(option)]
    return [option.label if option.is_switch else f"{option.label}={sample(option)}"]


def parsed(words: Sequence[str]) -> Request:
    """Return what `cvmlab boot` asks for with these words."""
    return request_of(BOOT.make_context("boot", list(words)).params)


def asked(option: Option, request: Request) -> Any:
    """Return what the request says of *option*, read; paths of a document are absolute."""
    return option.read(request.given[option.name])


def in_document(option: Option, folder: Path) -> Request:
    """Return what the cell of a matrix file with this option asks for."""
    value = json.dumps(sample(option))
    if option.forms & Form.AXIS:
        text = f"[axes]\nguest = ['debian']\n{option.word} = [{value}]\n"
    else:
        listed = f"[{value}]" if option.repeatable and option.kind is not ValueKind.LIMIT else value
        text = f"[axes]\nguest = ['debian']\n[defaults]\n{option.word} = {listed}\n"
    raw = parse(tomllib.loads(text), where="m", folder=folder)
    (cell,) = cells.expand(read(raw, Matrix, where="m"), {"debian": X86_64})
    return parsed(cell.words)


def ways(option: Option, folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield each form of an option with what a value given there means."""
    if option.forms & Form.COMMAND:
        yield "command", asked(option, parsed(typed(option)))
    if option.forms & (Form.MATRIX | Form.AXIS):
        yield "matrix", asked(option, in_document(option, folder))
    for name in option.keywords:
        given: dict[str, Any] = {name: [sample(option)] if option.repeatable else sample(option)}
        if option.forms & Form.SPEC:
            yield f"Vm({name}=)", getattr(Vm(**given).spec, option.target)
        if option.forms & Form.SETTING:
            yield f"Vm({name}=)", take_setting(dict(given))[option.target]
        if option.forms & Form.MARK:
            (cell,) = mark_options.cells(
                {key: (value,) for key, value in given.items()}, KNOWN_OPTIONS
            )
            assert list(cell.options) == [name]
            yield f"mark {name}", asked(option, Request.of(**given))


def known(value: Any, folder: Path) -> Any:
    """Make paths alike: those of a document are absolute."""
    if isinstance(value, tuple):
        return tuple(known(item, folder) for item in value)
    path = getattr(value, "path", value)
    return (folder / path, getattr(value, "format", None)) if isinstance(path, Path) else value


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_an_option_means_the_same_in_each_of_its_forms(option: Option, here: Path) -> None:
    found = {way: known(value, here) for way, value in ways(option, here)}

    assert found or option.name == "paused"  # a keyword of Vm itself, and of the mark
    assert len({repr(value) for value in found.values()}) <= 1, found


@pytest.mark.parametrize(
    "option",
    [row for row in having(Form.COMMAND) if row.forms & PYTHON],
    ids=lambda option: option.name,
)
@pytest.mark.fault("U7")
def test_an_option_of_the_command_reaches_the_field_that_python_sets(option: Option) -> None:
    kernel = [] if option.name in ("kernel", "arch", "ripas") else ["--kernel=file"]  # of a PC
    words = read_request(parsed([*kernel, *typed(option), *WITH.get(option.name, ())]))
    given = {option.keyword: sample(option)}

    if option.name in OF_THE_GUEST:
        made, expected = words.guest, boot_spec(**given)
    elif option.forms & Form.SPEC:
        made, expected = words.machine, boot_spec(**given)  # type: ignore[assignment]
    else:
        made, expected = words.setting, Setting(**take_setting(given))  # type: ignore[assignment]
    assert getattr(made, option.target) == getattr(expected, option.target)
    assert getattr(made, option.target) != getattr(type(expected)(), option.target)


def test_no_form_has_an_option_without_a_row() -> None:
    def names(form: Form) -> set[str]:
        return {option.name for option in having(form)}

    def targets(form: Form) -> set[str]:
        return {option.target for option in having(form)}

    own = set(inspect.signature(Vm.__init__).parameters) - {"self", "spec", "setting", "options"}
    assert {parameter.name for parameter in BOOT.params} == names(Form.COMMAND)
    rows = {"profiles"}  # what options are looked up in
    assert {field.name for field in fields(BootSpec)} - rows == targets(Form.SPEC)
    assert {field.name for field in fields(Setting)} == targets(Form.SETTING)
    assert own == names(Form.VM)
    assert {field.name for field in msgspec.structs.fields(Boot)} == names(Form.MATRIX) | {"extra"}
    assert {field.name for field in msgspec.structs.fields(Axes)} == names(Form.AXIS) | {"guest"}
    assert {name for row in having(Form.MARK) for name in row.keywords} == KNOWN_OPTIONS


def test_names_are_of_one_option_each() -> None:
    keywords = [name for option in OPTIONS for name in option.keywords]
    assert sorted(keywords) == sorted(set(keywords))
    assert len(BY_NAME) == len(OPTIONS)


def test_a_test_gets_no_option_that_needs_a_person_or_that_only_a_verdict_reads() -> None:
    needs_person = {"console", "gdb"}
    judged = {"expect", "timeout", "max_faults", "max_conversions", "max_accepts", "baseline"}
    assert (needs_person | judged) & KNOWN_OPTIONS == set()
    assert needs_person & {option.name for option in having(Form.MATRIX | Form.AXIS)} == set()


def test_defaults_that_no_field_of_a_machine_has_are_those_of_the_code() -> None:
    assert BY_NAME["timeout"].default == f"{WAIT_TIMEOUT_S:g}"
    assert BY_NAME["image"].default == recipes.load().default
    assert BY_NAME["name"].default == Setting().name


def test_a_matrix_takes_the_translation_cache_of_the_closest_table() -> None:
    text = (
        '[axes]\nguest = ["a", "b"]\n[run]\ntb-cache = "32M"\n[guest.a]\nimage = "debian"\n'
        '[guest.b]\nimage = "debian"\ntb-cache = "64M"\n'
    )
    raw = parse(tomllib.loads(text), where="m", folder=Path("/here"))
    found = cells.expand(read(raw, Matrix, where="m"), {"debian": X86_64})

    sizes = [asked(BY_NAME["tb_cache"], parsed(cell.words)) for cell in found]
    assert sizes == [32 << 20, 64 << 20]
    assert [cell.memory_bytes >> 20 for cell in found] == [1024 + 32 + 256, 1024 + 64 + 256]


def test_an_option_given_under_two_names_is_refused() -> None:
    with pytest.raises(Exception, match="given twice"):
        Request.of(memory="1G", memory_bytes=5)
