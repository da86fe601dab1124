# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of what a guest sees: what the generator refuses, and what the tables of ours say."""

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.guest_tables import GENERATOR, generator_module, tables


HEAD = '[sources]\nm = "a manual"\n[rows]\n'
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return generator_module()


@pytest.fixture
def refused(generator: ModuleType) -> Refused:
    """Return what the generator says of documents that it must refuse."""

    def refuse(*texts: str) -> str:
        documents = {
            f"{name}.toml": tomllib.loads(text) for name, text in zip("ab", texts, strict=False)
        }
        with pytest.raises(generator.TablesError) as said:
            generator.tables(documents)
        return str(said.value)

    return refuse


def msr(*rows: str) -> str:
    whole = (f'{{ read = "gp", write = "gp", source = "m", {row} }},\n' for row in rows)
    return f"{HEAD}msr = [\n{''.join(whole)}]\n"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("read_ = 1, first = 1", "unknown key 'read_'"),
        ("last = 1", "'first' is missing"),
        ("first = -1", "-1 is not a number of 32 bits"),
        ("first = 0x100000000", "is not a number of 32 bits"),
        ("first = true", "True is not a number"),
        ('first = 1, when = "sometimes"', "'sometimes' is not of always, perfmon"),
        ("first = 1, when = 1", "1 is not of always"),
        ('first = 1, note = ""', "note must be a text"),
        ("first = 2, last = 1", "it ends before it starts"),
    ],
)
def test_a_row_that_is_not_one_is_refused(refused: Refused, row: str, said: str) -> None:
    assert said in refused(msr(row))


def test_a_word_that_is_not_of_its_column_is_refused(refused: Refused) -> None:
    row = '{ first = 1, read = "refuse", write = "gp", source = "m" }'
    assert "row 0, read: 'refuse' is not of native" in refused(f"{HEAD}msr = [{row}]\n")


def test_a_row_without_a_source_is_refused(refused: Refused) -> None:
    row = '{ first = 1, read = "gp", write = "gp" }'
    assert "source '' is not one of [sources]" in refused(f"{HEAD}msr = [{row}]\n")
    row = '{ first = 1, read = "gp", write = "gp", source = "hearsay 3" }'
    assert "source 'hearsay' is not one of [sources]" in refused(f"{HEAD}msr = [{row}]\n")


@pytest.mark.parametrize("other", ["first = 5", "first = 3, last = 9", "first = 1, last = 4"])
def test_two_rows_for_the_same_thing_are_refused(refused: Refused, other: str) -> None:
    assert "rows 0 and 1 overlap" in refused(msr("first = 4, last = 6", other))


def test_rows_that_are_not_in_order_are_refused(refused: Refused) -> None:
    assert "rows 0 and 1 are not in order" in refused(msr("first = 4", "first = 2"))


def test_ranges_of_two_columns_overlap_only_where_both_do(
    generator: ModuleType, refused: Refused
) -> None:
    rows = "{{ first = 4, last-subleaf = 3, {0} }}, {{ first = 4, subleaf = {1}, {0} }}"
    leaves = HEAD + "cpuid-leaf = [" + rows + "]\n"
    rest = 'answer = "zero", source = "m"'
    assert generator.tables({"a.toml": tomllib.loads(leaves.format(rest, 4))})
    assert "rows 0 and 1 overlap" in refused(leaves.format(rest, 3))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[rows]\n", "the tables must be [sources] and [rows]"),
        (f"{HEAD}opinion = []\n", "'opinion' is no kind of row"),
    ],
)
def test_a_document_that_is_not_one_is_refused(refused: Refused, text: str, said: str) -> None:
    assert said in refused(text)


def test_two_documents_with_rows_of_a_kind_are_refused(refused: Refused) -> None:
    said = refused(msr("first = 1"), msr("first = 2"))
    assert "b.toml: another document has rows of 'msr', too" in said


def test_the_command_says_what_is_wrong_and_writes_nothing(tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, str(GENERATOR), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    assert run("lisp", str(tmp_path))[2].startswith("usage: ")
    assert "it has no TOML document" in run("c", str(tmp_path))[2]
    (tmp_path / "a.toml").write_text("[rows\n", encoding="utf-8")
    code, out, said = run("c", str(tmp_path))
    assert (code, out) == (1, "")
    assert f"gen-tables.py: {tmp_path.name}: a.toml: " in said


def model(**changes: str) -> str:
    lines = {
        "product": '"p"',
        "profiles": '["tdx"]',
        "cpu": '"max"',
        "set": "[]",
        "removed": '[{ features = ["a"], reason = "r" }]',
        "source": '"m"',
    } | {name.replace("_", "-"): text for name, text in changes.items()}
    said = "\n".join(f"{name} = {text}" for name, text in lines.items())
    return f"{HEAD}[[rows.cpu-model]]\n{said}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (model(removed='[{ features = ["a"], reason = "" }]'), "needs features and a reason"),
        (
            model(
                removed='[{ features = ["a"], reason = "r" }, { features = ["a"], reason = "s" }]'
            ),
            "'a' is removed twice",
        ),
        (model(colour='"red"'), "the keys must be cpu, product"),
    ],
)
def test_a_cpu_model_that_is_not_one_is_refused(refused: Refused, text: str, said: str) -> None:
    assert said in refused(text)


@pytest.mark.parametrize("technology", ["tdx", "sev"])
def test_each_row_of_ours_names_its_source_in_full(technology: str) -> None:
    for rows in tables(technology).values():
        assert rows
        assert all(len(row["source"]) > 20 for row in rows)


def test_a_td_has_msrs_that_it_may_read_and_not_write() -> None:
    found = {row["first"]: row for row in tables("tdx")["msr"]}
    assert (found[0x10]["read"], found[0x10]["write"]) == ("tsc", "exception")
    assert found[0xC0000080]["write"] == "efer"
    assert 0x1B not in found  # APICBASE
    assert 0xC0000083 not in found  # CSTAR
    assert (found[0x6A0]["when"], found[0x6A0]["otherwise"]) == ("cet", "gp")


def test_a_td_is_told_each_leaf_or_asks_the_host() -> None:
    reached = 0
    for row in tables("tdx")["cpuid-leaf"]:
        if row["subleaf"] == 0:
            assert row["first"] == reached
            reached = row["last"] + 1
        if row["last-subleaf"] != 0xFFFFFFFF:
            reached = row["first"] + 1
    assert reached == 1 << 32


def test_bits_of_xfam_that_go_together_are_each_others_group() -> None:
    bits = tables("tdx")["xfam-bit"]
    group = {row["bit"]: row["group"] for row in bits if row["group"]}
    for bit, mask in group.items():
        assert mask >> bit & 1
        assert all(group[other] == mask for other in range(32) if mask >> other & 1)
    emulated = [r["bit"] for r in bits if r["emulated"] == "yes" and r["td"] != "zero"]
    assert sum(1 << bit for bit in emulated) == 0x207
