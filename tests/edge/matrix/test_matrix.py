# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole matrices through the command line, whose guests do what a test wants."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from cvmlab.cli import main
from cvmlab.matrix.folder import known
from cvmlab.runs.run_dir import find_runs
from tests.fakes import matrices
from tests.fakes.matrices import BOOTED, HANGS
from tests.guest.program import cvmlab, finish, qemu_is_gone, start, wait_for_text


FAULTY = (*BOOTED[:-1], {"host_fault": 0x5010}, BOOTED[-1])
COUNTS = "fake: {} cells, {} passed, {} failed, {} unstable, {} ignored, {} missing"


@pytest.fixture(autouse=True)
def roms(tmp_path: Path, state_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVMLAB_ROM_DIRS", str(tmp_path))
    monkeypatch.delenv("CVMLAB_QEMU", raising=False)


Matrix = Callable[..., tuple[int, str]]


@pytest.fixture
def matrix(capsys: pytest.CaptureFixture[str]) -> Matrix:
    """Return a function that runs ``cvmlab matrix``, and gives exit code and standard output."""

    def call(*words: object) -> tuple[int, str]:
        code = main(["matrix", *map(str, words), "--progress", "none"])
        out, err = capsys.readouterr()
        return code, out or err

    return call


RULES = """
[defaults]
max-faults = 0
[[rule]]
when = { guest = "shaky" }
unstable = "it is known for it"
[[rule]]
when = { guest = "good", cpus = 2 }
ignore = "one is enough"
"""


def test_every_cell_is_booted_and_told_in_every_form(tmp_path: Path, matrix: Matrix) -> None:
    guests = {"good": BOOTED, "faulty": FAULTY, "shaky": FAULTY}
    document = matrices.write(tmp_path, guests, RULES, axes="cpus = [1, 2]")
    copies = {name: tmp_path / f"copy.{name}" for name in ("junit", "tap", "json", "markdown")}

    options = [word for name, path in copies.items() for word in (f"--{name}", path)]
    code, out = matrix(document, "--run-dir", tmp_path / "kept", *options)

    assert code == 81
    assert COUNTS.format(6, 1, 2, 2, 1, 0) in out
    assert "1 host fault, 0 are allowed: first device disk0 read 0x5010 (private)" in out
    suite = ET.parse(copies["junit"]).getroot().find("testsuite")
    assert suite is not None
    assert [suite.get(name) for name in ("tests", "failures", "skipped")] == ["6", "2", "3"]
    assert "ok 2 - good/generic/seabios/deny/2cpus/64M # SKIP one is enough" in (
        copies["tap"].read_text()
    )
    document_json = json.loads(copies["json"].read_text())
    assert [cell["verdict"] for cell in document_json["cells"]] == [
        "passed", "ignored", "failed", "failed", "unstable", "unstable",
    ]  # fmt: skip
    assert all(c["result"]["emulated"] for c in document_json["cells"] if c["result"])
    assert "| unstable |" in copies["markdown"].read_text()
    left = {path.name for path in (tmp_path / "kept" / "cells" / "003").iterdir()}
    assert left >= {"cell.json", "result.json", "report.txt", "events.bin", "console.log"}
    for name, file in (("junit", "junit.xml"), ("json", "matrix.json")):
        assert (tmp_path / "kept" / file).read_text() == copies[name].read_text()


def test_a_matrix_in_which_nothing_runs_has_not_passed(tmp_path: Path, matrix: Matrix) -> None:
    document = matrices.write(tmp_path, {"good": BOOTED}, '[[rule]]\nignore = "no"\n')

    assert matrix(document)[0] == 77


def test_a_cell_that_cannot_boot_is_said_before_any_is_run(tmp_path: Path, matrix: Matrix) -> None:
    more = '[[rule]]\nwhen = { guest = "good" }\nextra = ["--memroy=1G"]\n'
    document = matrices.write(tmp_path, {"good": BOOTED, "other": BOOTED}, more)

    code, said = matrix(document, "--run-dir", tmp_path / "kept")

    assert code == 85
    assert "cell good/generic/seabios/deny/1cpu/64M cannot boot: no such option: --memroy" in said
    assert "did you mean --memory?" in said
    assert known(tmp_path / "kept") == {}


def test_dry_run_lists_cells_commands_and_reasons(
    tmp_path: Path, state_home: Path, matrix: Matrix
) -> None:
    document = matrices.write(tmp_path, {"good": BOOTED, "shaky": BOOTED}, RULES, "cpus = [1, 2]")

    code, out = matrix(document, "--dry-run")

    assert code == 0
    assert "002 good/generic/seabios/deny/2cpus/64M  ignored: one is enough" in out
    assert "003 shaky/generic/seabios/deny/1cpu/64M  unstable: it is known for it" in out
    assert out.count("    cvmlab boot ") == 3
    assert not list(state_home.iterdir())


def test_a_killed_run_goes_on_with_what_is_missing(tmp_path: Path, matrix: Matrix) -> None:
    document = matrices.write(tmp_path, {"first": BOOTED, "slow": HANGS, "last": BOOTED})
    kept = tmp_path / "kept"
    words = (str(document), "--run-dir", str(kept), "--jobs", "1")
    with start("matrix", *words) as process:
        wait_for_text(kept / "cells" / "001" / "cell.json", "passed")
        wait_for_text(kept / "cells" / "002" / "vm.json", "qemu")
        process.send_signal(signal.SIGKILL)
        finish(process)
    (run,) = find_runs(kept / "cells")[1:]
    assert qemu_is_gone(run)
    before = (kept / "cells" / "001" / "cell.json").stat()
    matrices.change(tmp_path, "slow", BOOTED)

    code, out = matrix(*words)

    assert code == 0
    assert COUNTS.format(3, 3, 0, 0, 0, 0) in out
    after = (kept / "cells" / "001" / "cell.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process_and_goes_on(
    tmp_path: Path, matrix: Matrix, number: signal.Signals
) -> None:
    document = matrices.write(tmp_path, {"slow": HANGS, "second": HANGS})
    kept = tmp_path / "kept"
    words = (str(document), "--run-dir", str(kept), "--jobs", "2")
    with start("matrix", *words) as process:
        for folder in ("001", "002"):
            wait_for_text(kept / "cells" / folder / "vm.json", "qemu")
        process.send_signal(number)
        done = finish(process)

    assert done.code == 130
    assert f"interrupted; the same command continues from {kept}" in done.err
    assert "done in" not in done.err
    assert all(qemu_is_gone(run) for run in find_runs(kept / "cells"))
    assert known(kept) == {}
    for guest in ("slow", "second"):
        matrices.change(tmp_path, guest, BOOTED)
    assert matrix(*words)[0] == 0


def test_a_run_that_has_ended_begins_anew(tmp_path: Path, matrix: Matrix) -> None:
    document = matrices.write(tmp_path, {"good": FAULTY}, "[defaults]\nmax-faults = 0\n")
    assert matrix(document, "--run-dir", tmp_path / "kept")[0] == 81
    matrices.change(tmp_path, "good", BOOTED)

    assert matrix(document, "--run-dir", tmp_path / "kept")[0] == 0


def test_an_unfinished_run_of_another_document_is_not_mixed_with(
    tmp_path: Path, matrix: Matrix
) -> None:
    document = matrices.write(tmp_path, {"good": BOOTED})
    kept = tmp_path / "kept"
    assert matrix(document, "--run-dir", kept)[0] == 0
    (kept / "matrix.json").unlink()  # as if it had been killed
    document.write_text(document.read_text().replace("64M", "128M"))

    code, said = matrix(document, "--run-dir", kept)
    assert (code, "unfinished run of another matrix" in said) == (85, True)
    assert matrix(document, "--run-dir", kept, "--fresh")[0] == 0


def test_json_goes_to_standard_output_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = matrices.write(tmp_path, {"good": BOOTED})
    words = ["--run-dir", str(tmp_path / "k"), "--json", "-", "--progress", "none"]

    assert main(["matrix", str(document), *words]) == 0

    out, err = capsys.readouterr()
    assert json.loads(out)["counts"]["passed"] == 1
    assert COUNTS.format(1, 1, 0, 0, 0, 0) in err


def test_a_place_that_cannot_be_written_or_read_is_said(tmp_path: Path, matrix: Matrix) -> None:
    document = matrices.write(tmp_path, {"good": BOOTED})
    (tmp_path / "file").touch()

    code, said = matrix(document, "--run-dir", tmp_path / "file" / "k")
    assert (code, "cannot be written: Not a directory" in said) == (85, True)
    code, said = matrix(document, "--junit", tmp_path / "gone" / "junit.xml")
    assert (code, "cannot be written" in said) == (85, True)
    kept = tmp_path / "k"
    assert matrix(document, "--run-dir", kept)[0] == 0
    (kept / "matrix.json").unlink()
    (kept / "cells" / "001" / "cell.json").write_text("{")
    code, said = matrix(document, "--run-dir", kept)
    assert (code, "001/cell.json is not the result of a cell" in said) == (85, True)


def test_two_runs_cannot_share_a_folder(tmp_path: Path, matrix: Matrix) -> None:
    document = matrices.write(tmp_path, {"slow": HANGS})
    kept = tmp_path / "kept"
    with start("matrix", str(document), "--run-dir", str(kept)) as process:
        wait_for_text(kept / "cells" / "001" / "vm.json", "qemu")
        code, said = matrix(document, "--run-dir", kept)
        process.send_signal(signal.SIGINT)
        finish(process)

    assert (code, f"a matrix is running in {kept}" in said) == (85, True)


def test_shards_are_merged_and_what_is_missing_is_a_failure(tmp_path: Path, matrix: Matrix) -> None:
    guests = {"good": BOOTED, "shaky": FAULTY, "other": BOOTED}
    document = matrices.write(tmp_path, guests, RULES, axes="cpus = [1, 2]")
    parts = [tmp_path / f"part{number}" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        assert matrix(document, "--shard", f"{number}/2", "--run-dir", part)[0] == 0

    code, out = merge(*parts)
    assert (code, COUNTS.format(6, 3, 0, 2, 1, 0) in out) == (0, True)
    code, out = merge(parts[0])
    assert (code, "was not run" in out) == (1, True)
    document.write_text(document.read_text().replace("64M", "128M"))
    assert matrix(document, "--shard", "1/2", "--run-dir", tmp_path / "else")[0] == 0
    code, said = merge(parts[0], tmp_path / "else")
    assert (code, "are results of different matrices" in said) == (85, True)
    code, said = merge(tmp_path)
    assert (code, "is not the folder of a matrix" in said) == (85, True)


def merge(*folders: Path) -> tuple[int, str]:
    done = cvmlab("matrix", "merge", *map(str, folders))
    return done.code, done.out + done.err


@pytest.mark.fault("U9")
def test_a_run_that_cannot_begin_keeps_the_results_of_the_last(
    tmp_path: Path, matrix: Matrix
) -> None:
    document = matrices.write(tmp_path, {"good": BOOTED})
    kept = tmp_path / "kept"
    assert matrix(document, "--run-dir", kept)[0] == 0
    before = known(kept)

    code, _ = matrix(document, "--run-dir", kept, "--scheduler", "tcp://127.0.0.1:1")

    assert code == 85
    assert known(kept) == before
    assert (kept / "matrix.json").is_file()
    assert (kept / "cells" / "001" / "events.bin").is_file()
    assert matrix(document, "--run-dir", kept)[0] == 0


@pytest.mark.fault("U2", "U9")
@pytest.mark.parametrize("name", ["cells", "matrix.json", "junit.xml", "record.json"])
def test_what_is_not_of_a_matrix_is_not_replaced(tmp_path: Path, matrix: Matrix, name: str) -> None:
    document = matrices.write(tmp_path, {"good": BOOTED})
    mine = tmp_path / "mine"
    (mine / "cells").mkdir(parents=True) if name == "cells" else mine.mkdir()
    target = mine / "cells" / "notes" if name == "cells" else mine / name
    target.write_text("mine")

    code, said = matrix(document, "--run-dir", mine, "--fresh")

    assert (code, f"has a {name} that is not of a matrix" in said) == (85, True)
    assert target.read_text() == "mine"


@pytest.mark.fault("U9")
@pytest.mark.parametrize("name", ["x/../y", "../up", ".hidden", "a/b", "", "tab\\t"])
def test_a_name_stays_in_its_folder(tmp_path: Path, matrix: Matrix, name: str) -> None:
    document = matrices.write(tmp_path, {"good": BOOTED})
    document.write_text(document.read_text().replace('"fake"', f'"{name}"', 1))

    code, said = matrix(document)

    assert (code, "cannot name a folder" in said) == (85, True)
    assert not (tmp_path / "state").exists()
