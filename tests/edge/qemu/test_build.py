# SPDX-License-Identifier: GPL-2.0-or-later
"""The build of QEMU, with a configure and a ninja that take no time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cvmlab.base.errors import BuildError, ConfigError, CvmError
from cvmlab.base.progress import Style
from cvmlab.qemu import build
from cvmlab.qemu.recipe import PROGRAMS, Flavour, builds_dir, find
from cvmlab.qemu.source import (
    Source,
    SourceKind,
    digest,
    place,
    plugin_files,
    read_choice,
    sync_plugin,
    write_choice,
)
from tests.edge.qemu.trees import NINJA, tree_of
from tests.fakes.programs import Programs


ROOT = Path(__file__).resolve().parents[3]


def stock(source: Path, version: str | None = None, *, force: bool = False) -> Path:
    return build.install(Flavour.STOCK, version, source=source, force=force, style=Style.NONE)


def test_a_build_is_installed_with_what_it_was_made_from(programs: Programs, source: Path) -> None:
    installed = stock(source)
    assert {path.name for path in (installed / "bin").iterdir()} == set(PROGRAMS)
    record = json.loads((installed / "build.json").read_text())
    assert record["version"] == "10.0.99"
    assert record["source"]["path"] == str(source)
    assert "--enable-tcg" in record["options"]


def test_a_finished_build_is_found_without_running_anything(
    programs: Programs, source: Path
) -> None:
    first = stock(source)
    assert stock(source) == first
    assert build.stock_qemu_binary() == first / "bin" / "qemu-system-x86_64"
    assert len(programs.calls("ninja")) == 1


def test_force_builds_again_from_the_same_folder(programs: Programs, source: Path) -> None:
    first = stock(source)
    assert stock(source, force=True) == first
    assert build.install(Flavour.STOCK, force=True, style=Style.NONE) == first
    assert len(programs.calls("ninja")) == 3


def test_a_changed_source_is_another_build(programs: Programs, source: Path) -> None:
    first = stock(source)
    (source / "hw" / "new.c").write_text("int x;\n")
    assert stock(source) != first
    assert len(programs.calls("ninja")) == 2


def test_a_build_keeps_only_what_later_ones_use(programs: Programs, source: Path) -> None:
    newest = stock(source)
    for change in range(7):
        (source / "hw" / "new.c").write_text(f"int x = {change:06};\n" + "\n" * change)
        newest = stock(source)
    assert newest.is_dir()
    assert len(list(builds_dir().glob("*/build.json"))) == 6
    assert not list(builds_dir().glob("work-stock-*"))
    assert not list(builds_dir().glob("partial-*"))


def test_jobs_are_as_many_as_asked_for(
    programs: Programs, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CVMLAB_JOBS", "7")
    stock(source)
    assert "-j7" in programs.calls("ninja")[0]


def test_the_users_flags_and_language_do_not_reach_the_build(
    programs: Programs, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CFLAGS", "LANG", "LC_MESSAGES", "CCACHE_DIR"):
        monkeypatch.setenv(name, "mine")
    programs.add("ninja", f'env >"{programs.folder}/environment"' + NINJA)
    stock(source)
    passed = (programs.folder / "environment").read_text().splitlines()
    assert "LC_ALL=C" in passed
    assert [line for line in passed if line.endswith("=mine")] == ["CCACHE_DIR=mine"]


def test_a_failed_compile_names_the_log_and_shows_its_end(programs: Programs, source: Path) -> None:
    programs.add("ninja", "echo 'x.c:1: fatal error: glib.h: No such file'; exit 1")
    with pytest.raises(BuildError) as caught:
        stock(source)
    assert caught.value.message == "compiling QEMU failed (exit status 1)"
    assert caught.value.hint is not None
    assert "build-stock.log" in caught.value.hint
    assert "glib.h" in caught.value.hint
    assert "a header is missing" in caught.value.hint
    assert not list(builds_dir().glob("*/build.json"))


def test_a_build_after_a_failed_one_goes_on_from_its_tree(programs: Programs, source: Path) -> None:
    programs.add("ninja", "exit 1")
    with pytest.raises(BuildError):
        stock(source)
    programs.add("ninja", NINJA)
    assert stock(source).is_dir()
    log = (builds_dir() / "build-stock.log").read_text()
    assert "configured" not in log


def test_a_program_that_does_not_run_is_not_installed(programs: Programs, source: Path) -> None:
    programs.add("ninja", 'cd "$2"; touch qemu-system-x86_64 qemu-img qemu-io')
    with pytest.raises(BuildError, match="does not run"):
        stock(source)
    assert not list(builds_dir().glob("*/build.json"))


@pytest.mark.parametrize("version", ["9.2.0", "12.0.0"])
def test_another_series_of_qemu_is_refused(
    programs: Programs, tmp_path: Path, version: str
) -> None:
    source = tree_of(tmp_path / "other", version)
    with pytest.raises(BuildError, match=f"this is QEMU {version}, and the plugin is for 10.x"):
        stock(source)


def test_a_version_that_has_no_row_is_taken(programs: Programs, tmp_path: Path) -> None:
    source = tree_of(tmp_path / "other", "10.2.1")
    installed = stock(source)
    assert build.stock_qemu_binary() == installed / "bin" / "qemu-system-x86_64"


def test_versions_are_kept_side_by_side(programs: Programs, source: Path, newer: Path) -> None:
    default, second = stock(source), stock(newer, "11.1")
    assert build.stock_qemu_binary(build=False).parent.parent == default
    assert build.stock_qemu_binary("10.0", build=False).parent.parent == default
    assert build.stock_qemu_binary("11.1", build=False).parent.parent == second
    for change in range(7):
        (source / "hw" / "new.c").write_text(f"int x = {change:06};\n" + "\n" * change)
        stock(source)
    assert build.stock_qemu_binary("11.1", build=False).parent.parent == second


def test_a_work_tree_of_another_version_is_kept(programs: Programs, source: Path) -> None:
    trees = {name: builds_dir() / f"work-stock-{name}" for name in ("same", "other", "broken")}
    for name, version in (("same", "10.0.1"), ("other", "11.1.1")):
        (trees[name] / "src").mkdir(parents=True)
        (trees[name] / "src" / "VERSION").write_text(f"{version}\n")
    trees["broken"].mkdir()
    stock(source)
    assert [name for name, tree in trees.items() if tree.exists()] == ["other"]


def test_the_environment_may_ask_for_a_version(
    programs: Programs, source: Path, newer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock(source)
    second = stock(newer, "11.1")
    monkeypatch.setenv("CVMLAB_QEMU_VERSION", "11.1")
    assert build.stock_qemu_binary(build=False).parent.parent == second


def test_a_source_of_another_version_is_not_what_was_asked_for(
    programs: Programs, source: Path
) -> None:
    for _ in ("when it is built", "when it is there"):
        with pytest.raises(BuildError, match=r"this is QEMU 10\.0\.99, and 11\.1 was asked for"):
            stock(source, "11.1")
        stock(source)


def test_an_unknown_version_is_named(programs: Programs) -> None:
    with pytest.raises(ConfigError, match=r"QEMU version: there is no '11\.2'") as caught:
        build.qemu_binary("11.2")
    assert caught.value.hint == "did you mean 11.1? known are 10.0, 11.1"


def test_a_version_that_is_not_built_says_how(programs: Programs) -> None:
    with pytest.raises(BuildError, match=r"QEMU 11\.1 is not built yet") as caught:
        build.stock_qemu_binary("11.1", build=False)
    assert caught.value.hint == "run `cvmlab build --qemu-version 11.1 --stock`"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("CVMLAB_JOBS", "many", "CVMLAB_JOBS=many is not a number of jobs"),
        ("CVMLAB_JOBS", "0", "CVMLAB_JOBS=0 is not a number of jobs"),
        ("CVMLAB_QEMU_SOURCE", "/nowhere", "there is no QEMU source at /nowhere"),
    ],
)
def test_a_wrong_setting_is_named(
    programs: Programs,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    message: str,
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(CvmError) as caught:
        build.install(
            Flavour.STOCK, source=source if variable == "CVMLAB_JOBS" else None, style=Style.NONE
        )
    assert caught.value.message == message
    assert caught.value.exit_code == 85


def test_nothing_is_built_when_that_is_not_asked_for(programs: Programs) -> None:
    with pytest.raises(BuildError) as caught:
        build.qemu_binary(build=False)
    assert caught.value.hint == "run `cvmlab build`"
    assert programs.calls("ninja") == []


def test_a_named_qemu_goes_before_all(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    qemu = programs.add("my-qemu", "echo 'QEMU emulator version 10.0.7 (mine)'")
    monkeypatch.setenv("CVMLAB_QEMU", os.fspath(qemu))
    assert build.qemu_binary() == qemu
    assert build.identity() == {"version": "10.0.7", "patch_hash": "", "tuning": ""}
    image = programs.add("qemu-img")
    assert build.qemu_img() == image


def test_a_second_build_waits_for_the_first(programs: Programs, source: Path) -> None:
    gate = programs.folder / "gate"
    os.mkfifo(gate)
    programs.add("ninja", f'cat "{gate}"' + NINJA)
    code = "import sys, pathlib; from tests.edge.qemu.test_build import stock; "
    command = [sys.executable, "-c", code + "print(stock(pathlib.Path(sys.argv[1])))", str(source)]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    first = start()
    with gate.open("w"):  # returns when the first has come to ninja, which reads it to its end
        second = start()
        assert second.stderr is not None
        assert "another build of QEMU is running" in second.stderr.readline()
    answers = [process.communicate(timeout=30)[0] for process in (first, second)]
    assert answers[0] == answers[1] != ""
    assert len(programs.calls("ninja")) == 1


def test_sources_are_known_by_what_they_are(tmp_path: Path, source: Path) -> None:
    archive, description = tmp_path / "qemu-10.0.1.tar.xz", tmp_path / "qemu_10.0.13.dsc"
    archive.write_bytes(b"one")
    description.write_bytes(b"two")
    assert Source.at(source).kind is SourceKind.FOLDER
    assert Source.at(archive).kind is SourceKind.TARBALL
    assert Source.at(description).kind is SourceKind.DEBIAN
    assert len({Source.at(path).key for path in (source, archive, description)}) == 3


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_what_is_no_source_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="QEMU source"):
        Source.at(tmp_path / name)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"kind": "cd-rom", "path": "/", "key": ""}'])
def test_a_garbled_choice_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "source.json").write_text(text)
    assert read_choice(tmp_path / "source.json") is None


def test_a_choice_is_read_as_it_was_written(tmp_path: Path, source: Path) -> None:
    chosen = Source.at(source)
    write_choice(tmp_path / "new" / "source.json", chosen)
    assert read_choice(tmp_path / "new" / "source.json") == chosen


def test_the_digest_sees_names_and_contents(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    a, b = Path("a"), Path("b")
    seen = [digest(files) for files in ({}, {a: one}, {b: one}, {a: two}, {a: one, b: two})]
    assert len(set(seen)) == len(seen)
    assert digest({a: one, b: two}) == digest({b: two, a: one})


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    given, tree = tmp_path / "given", tmp_path / "tree"
    given.write_text("1")
    tree.mkdir()
    place(tree, {Path("hw/x"): given})
    os.utime(tree / "hw" / "x", (1, 1))
    place(tree, {Path("hw/x"): given})
    assert (tree / "hw" / "x").stat().st_mtime == 1
    given.write_text("2")
    place(tree, {Path("hw/x"): given})
    assert (tree / "hw" / "x").read_text() == "2"


def test_a_file_that_left_the_plugin_leaves_the_tree(source: Path) -> None:
    sync_plugin(source)
    home = source / "hw" / "restricted-memory"
    (home / "qemu" / "old.c").touch()
    sync_plugin(source)
    assert not (home / "qemu" / "old.c").exists()
    assert (home / "core" / "rmem.h").is_file()
    assert (source / "qapi" / "restricted-memory.json").is_file()


def test_the_plugin_is_one_folder_and_its_schema() -> None:
    homes = {target.parts[:2] for target in plugin_files() if target.parts[0] != "qapi"}
    assert homes == {("hw", "restricted-memory")}


def test_no_build_is_found_for_a_source_that_never_was_built(
    programs: Programs, source: Path
) -> None:
    assert find(Flavour.PATCHED, Source.at(source), None) is None
