# SPDX-License-Identifier: GPL-2.0-or-later
"""What may be in the file of a matrix, and what is said to what may not."""

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.matrix import document_schema
from cvmlab.matrix.document import load


ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "matrix.toml"
AXES = '[axes]\nguest = ["debian"]\n'
PROFILES = "generic, sw-protected"  # the first of them; others may come


def written(folder: Path, text: str, name: str = "m.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("axis = 1", "m.toml: there is no 'axis'", "did you mean axes? known are"),
        ("[axes]\ncoc = []", "m.toml: axes: there is no 'coc'", "did you mean coco? known are"),
        (
            "[guest.mine]\nkernl = 'a'",
            "m.toml: guest.mine: there is no 'kernl'",
            "did you mean kernel? known are",
        ),
        (
            "[[rule]]\n[[rule]]\nwhen = { cpu = 2 }",
            "m.toml: rule 2.when: there is no 'cpu'",
            "did you mean cpus? known are",
        ),
        ("[defaults]\nmax-fault = 1", "m.toml: defaults: there is no 'max-fault'", "did you mean"),
        ("[run]\njobs = 0", "m.toml: run.jobs: expected int >= 1", None),
        ("[guest.mine]\nexec = 1", "m.toml: guest.mine.exec: expected str | null, got int", None),
        ("[[rule]]\nignore = true", "m.toml: rule 1.ignore: expected str | null, got bool", None),
        ("[axes]\ncpus = ['two']", "m.toml: axes.cpus[0]: expected int, got str", None),
        (
            "[[rule]]\nignore = ' '",
            "m.toml: rule 1: ignore has no reason",
            "say why; reports show it beside the cell",
        ),
        ("[[rule]]\nunstable = ''", "m.toml: rule 1: unstable has no reason", "say why"),
        ("", "m.toml: axes: guest has no value", "give it a list of one or more"),
        (
            "[axes]\nguest = ['debain']",
            "m.toml: axes.guest: there is no 'debain'",
            "did you mean debian?",
        ),
        (
            AXES + "coco = ['tdxx']",
            "m.toml: axes.coco: there is no 'tdxx'",
            f"did you mean tdx? known are {PROFILES}",
        ),
        (
            AXES + "firmware = ['ovfm']",
            "m.toml: axes.firmware: there is no 'ovfm'",
            "did you mean ovmf?",
        ),
        (AXES + "memory = ['lots']", "m.toml: 'lots' is not a size", "write a number of bytes"),
        (
            AXES + "[[rule]]\nwhen = { coco = 'genric' }",
            "m.toml: rule 1: when.coco: there is no 'genric'",
            "did you mean generic?",
        ),
        (
            AXES + "[[rule]]\nunless = { on-host-access = 'shar' }",
            "m.toml: rule 1: unless.on-host-access: there is no 'shar'",
            "did you mean share?",
        ),
        (
            AXES + "[defaults]\nmax-accepts = ['boot=1']",
            "m.toml: defaults: max-accepts: there is no phase 'boot'",
            "phases are launch, firmware, efi-stub, kernel, user",
        ),
        (
            AXES + "[[rule]]\nmax-conversions = 'few'",
            "m.toml: rule 1: max-conversions: 'few' is not a number",
            "write a limit such as 100",
        ),
        (
            "[axes]\nguest = ['a']\n[guest.a]\nextends = 'b'\n[guest.b]\nextends = 'a'",
            "m.toml: guest.a: extends forms a cycle at 'a'",
            None,
        ),
        (
            "[axes]\nguest = ['mine']\n[guest.mine]\nextends = 'mien'",
            "m.toml: guest.mine: extends: there is no 'mien'",
            "did you mean mine?",
        ),
        (
            "[axes]\nguest = ['a.b']\n[guest.'a.b']\nkernel = 'k'",
            "m.toml: guest.a.b: not a valid name for a guest",
            "use letters, digits, - and _",
        ),
        (AXES + "cpus = [1, 1]", "m.toml: cell debian/generic/", "list each value of an axis once"),
        (AXES + "memory = ['1M']", "m.toml: --memory must be at least 16M (got 1M)", "most Linux guests"),
        ("extends = 'm.toml'", "m.toml extends itself", "remove one `extends` from the cycle"),
        ("extends = 'base.toml'", "base.toml cannot be read: No such file", "give the path"),
        ("axes = [", "m.toml is not TOML: ", None),
    ],
)  # fmt: skip
def test_a_bad_document_is_refused_with_path_and_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str, hint: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, text)

    with pytest.raises(ConfigError) as caught:
        load(Path("m.toml"))

    assert caught.value.message.startswith(message)
    assert (caught.value.hint or "").startswith(hint or "")
    assert (caught.value.hint is None) == (hint is None)


def test_the_published_schema_is_up_to_date_and_takes_the_example() -> None:
    schema = json.loads(document_schema.SCHEMA_PATH.read_text(encoding="utf-8"))

    assert document_schema.SCHEMA_PATH.read_text(encoding="utf-8") == document_schema.schema_text()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(tomllib.loads(EXAMPLE.read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"axs": {}}, schema)


def test_the_example_is_two_kernels_by_every_profile_and_two_firmwares() -> None:
    from cvmlab.profiles.profile_rows import PROFILES

    loaded = load(EXAMPLE)
    names = PROFILES.where(lambda _row: True)

    assert len(loaded.cells) == 2 * len(names) * 2
    assert {cell.axis.coco for cell in loaded.cells} == set(names)


def test_the_document_of_the_manual_is_one(tmp_path: Path) -> None:
    manual = (ROOT / "docs" / "matrix.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```toml\n(.*?)^```", manual, re.MULTILINE | re.DOTALL)
    written(tmp_path, "[defaults]\nnet = 'none'\n", "common.toml")

    cells = load(written(tmp_path, shown)).cells

    assert any("--max-conversions=kernel=20000" in cell.words for cell in cells)
    assert {cell.ignored for cell in cells} >= {None, "it refuses to boot outside a TD"}
    assert any(cell.unstable for cell in cells)


def test_a_file_extends_others_which_come_first(tmp_path: Path) -> None:
    folder = tmp_path / "common"
    folder.mkdir()
    written(
        folder,
        '[axes]\nguest = ["mine"]\ncpus = [1, 2]\n[defaults]\ntimeout = 5\nexec = "a"\n'
        '[guest.mine]\nkernel = "bzImage"\ninitrd = "none"\n[[rule]]\nwhen = { cpus = 2 }\n'
        'ignore = "of the base"\n',
        "base.toml",
    )
    top = written(
        tmp_path,
        'extends = "common/base.toml"\n[axes]\nguest = ["mine", "more"]\n[defaults]\nexec = "b"\n'
        '[guest.more]\nextends = "mine"\nappend = "quiet"\n'
        '[[rule]]\nwhen = { guest = "more" }\nmax-faults = 0\n',
    )

    cells = load(top).cells

    assert [cell.ignored for cell in cells] == [None, "of the base"] * 2
    mine, more = cells[0].words, cells[2].words
    common = (f"--kernel={folder}/bzImage", "--initrd=none", "--timeout=5", "--exec=b")
    assert set(common) <= set(mine) & set(more)
    assert {"--append=quiet", "--max-faults=0"} <= set(more) - set(mine)


def test_a_kernel_built_anew_makes_another_document(tmp_path: Path) -> None:
    kernel = tmp_path / "bzImage"
    kernel.write_bytes(b"one")
    top = written(tmp_path, '[axes]\nguest = ["mine"]\n[guest.mine]\nkernel = "bzImage"\n')
    before = load(top).digest

    assert load(top).digest == before
    kernel.write_bytes(b"another")
    assert load(top).digest != before
