# SPDX-License-Identifier: GPL-2.0-or-later
"""How QEMU is optimized: what is built by default, and a build that goes by a profile."""

import json
import lzma
from pathlib import Path

import pytest

from cvmlab.base.errors import BuildError, ConfigError
from cvmlab.base.progress import Style
from cvmlab.qemu import build
from cvmlab.qemu.recipe import Flavour, builds_dir, recipe_for
from cvmlab.qemu.source import Source
from cvmlab.qemu.tuning import Tuning, collect_profile, place_profile
from tests.edge.qemu.trees import NINJA
from tests.fakes.programs import Programs


class Trainer:
    """Runs a QEMU, which counts what it was told: ``counts`` is what the compiler then finds."""

    def __init__(self, counts: bytes = b"counts") -> None:
        self.counts = counts
        self.ran: list[Path] = []

    def __call__(self, qemu: Path) -> None:
        self.ran.append(qemu)
        objects = qemu.parent / "system.p"
        objects.mkdir()
        (objects / "main.c.gcda").write_bytes(self.counts)


def install(
    source: Path, tuning: str | None = None, train: Trainer | None = None, *, force: bool = False
) -> Path:
    return build.install(
        Flavour.STOCK, source=source, tuning=tuning, train=train, force=force, style=Style.NONE
    )


def options(installed: Path) -> list[str]:
    record = json.loads((installed / "build.json").read_text())
    return [option for option in record["options"] if "lto" in option or "profile" in option]


def test_the_default_is_lto_and_says_so(programs: Programs, source: Path) -> None:
    installed = install(source)
    record = json.loads((installed / "build.json").read_text())
    assert (record["tuning"], options(installed)) == ("lto", ["--enable-lto"])
    assert "--enable-lto" in (builds_dir() / "build-stock.log").read_text()


def test_a_build_says_what_it_is(
    programs: Programs,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CVMLAB_ROM_DIRS", "/nowhere")  # so that none is fetched
    installed = install(source)
    assert build.main(qemu_source=source, stock=True, style=Style.NONE) == 0
    said = capsys.readouterr()
    assert said.out == f"{installed}/bin/qemu-system-x86_64\n"
    assert said.err == "QEMU 10.0.99, stock, lto\n"


def test_plain_is_without_and_is_another_build(programs: Programs, source: Path) -> None:
    plain = install(source, "plain")
    assert options(plain) == []
    assert install(source) != plain


def test_what_only_tests_build_is_not_optimized() -> None:
    assert Flavour.TARGETS.tunings(Tuning.PGO) == (Tuning.PLAIN,)
    assert Flavour.PATCHED.tunings(None) == Flavour.STOCK.tunings(None)


def test_a_profile_is_made_by_a_run_and_is_there_when_it_is_compiled(
    programs: Programs, source: Path
) -> None:
    programs.add("ninja", 'cp "$2"/system.p/main.c.gcda "$0.saw" 2>&1' + NINJA)
    train = Trainer()
    installed = install(source, "pgo", train)
    assert len(train.ran) == 1
    record = json.loads((installed / "build.json").read_text())
    assert record["tuning"] == "pgo"
    assert "-fprofile-use" in " ".join(options(installed))
    assert "--enable-lto" in options(installed)
    assert (programs.folder / "ninja.saw").read_bytes() == b"counts"
    assert len(programs.calls("ninja")) == 2
    assert not list(builds_dir().glob("work-*"))


def test_the_instrumented_build_does_not_take_objects_of_others(
    programs: Programs, source: Path
) -> None:
    install(source, "lto")
    lto = (builds_dir() / "build-stock.log").read_text()
    install(source, "pgo", Trainer())
    pgo = (builds_dir() / "build-stock.log").read_text()
    assert "--cc=ccache gcc" in lto
    assert "--cc=gcc" in pgo


def test_the_fastest_build_is_found_and_another_if_it_is_asked_for(
    programs: Programs, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lto = install(source)
    pgo = install(source, "pgo", Trainer())
    assert build.stock_qemu_binary(build=False).parent.parent == pgo
    assert build.stock_qemu_binary(tuning="lto", build=False).parent.parent == lto
    monkeypatch.setenv("CVMLAB_QEMU_TUNING", "lto")
    assert build.stock_qemu_binary(build=False).parent.parent == lto


def test_a_changed_source_needs_a_profile_of_its_own(programs: Programs, source: Path) -> None:
    install(source, "pgo", Trainer())
    (source / "hw" / "new.c").write_text("int x;\n")
    after = Trainer()
    assert "--enable-lto" in options(install(source))
    install(source, "pgo", after)
    assert len(after.ran) == 1


def test_a_profile_is_used_again_until_force_asks_for_another(
    programs: Programs, source: Path
) -> None:
    first = install(source, "pgo", Trainer())
    assert install(source, "pgo", Trainer(b"not asked for")) == first
    again = Trainer(b"other counts")
    second = install(source, "pgo", again, force=True)
    assert len(again.ran) == 1
    assert second != first


def test_without_a_run_there_is_no_profile(programs: Programs, source: Path) -> None:
    with pytest.raises(BuildError, match="there is no profile") as caught:
        install(source, "pgo")
    assert caught.value.hint == "run `cvmlab build --pgo --stock`"
    with pytest.raises(BuildError, match="not built yet") as caught:
        build.stock_qemu_binary(tuning="pgo", build=False)
    assert caught.value.hint == "run `cvmlab build --stock --pgo`"


def test_a_run_that_counts_nothing_is_no_profile(programs: Programs, source: Path) -> None:
    with pytest.raises(BuildError, match="wrote none"):
        build.install(
            Flavour.STOCK, source=source, tuning="pgo", train=lambda _: None, style=Style.NONE
        )
    assert not list(builds_dir().glob("*/build.json"))
    assert not list(builds_dir().glob("profiles/*"))


@pytest.mark.parametrize("word", ["training", "fast"])
def test_an_unknown_tuning_is_named(
    programs: Programs, source: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("CVMLAB_QEMU_TUNING", word)
    with pytest.raises(ConfigError, match=f"tuning of QEMU: there is no '{word}'") as caught:
        install(source)
    assert caught.value.hint == "known are plain, lto, pgo"


def test_the_key_covers_flags_and_profile(programs: Programs, source: Path) -> None:
    at = Source.at(source)
    keys = {recipe_for(Flavour.STOCK, at, tuning).key() for tuning in Tuning}
    install(source, "pgo", Trainer())
    keys.add(recipe_for(Flavour.STOCK, at, Tuning.PGO).key())
    assert len(keys) == len(Tuning) + 1


def test_equal_counts_are_an_equal_profile(tmp_path: Path) -> None:
    packed = []
    for name in ("one", "two"):
        counts = tmp_path / name / "a.p" / "x.c.gcda"
        counts.parent.mkdir(parents=True)
        counts.write_bytes(b"1")
        (counts.parent / "x.c.o").write_bytes(name.encode())
        collect_profile(tmp_path / name, tmp_path / f"{name}.tar.xz")
        packed.append((tmp_path / f"{name}.tar.xz").read_bytes())
    assert packed[0] == packed[1]
    place_profile(tmp_path / "one.tar.xz", tmp_path / "back")
    assert [path.name for path in (tmp_path / "back").rglob("*.*") if path.is_file()] == [
        "x.c.gcda"
    ]


@pytest.mark.parametrize("content", [b"", b"not xz", lzma.compress(b"not tar")])
def test_a_damaged_profile_is_an_error_with_a_way_out(tmp_path: Path, content: bytes) -> None:
    damaged = tmp_path / "x.tar.xz"
    damaged.write_bytes(content)
    with pytest.raises(BuildError, match="cannot be read") as caught:
        place_profile(damaged, tmp_path)
    assert caught.value.hint is not None
    assert "--force" in caught.value.hint
