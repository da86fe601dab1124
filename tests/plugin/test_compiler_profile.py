# SPDX-License-Identifier: GPL-2.0-or-later
"""What `build --pgo` tells configure means to the real compiler what we think."""

import shlex
import subprocess
from pathlib import Path

import pytest

from cvmlab.qemu.recipe import COMPILER
from cvmlab.qemu.tuning import Tuning, collect_profile, place_profile


SOURCE = """
int work(int n) { int sum = 0; while (n-- > 0) { sum += n; } return sum; }
int main(void) { return work(100) == 4950 ? 0 : 1; }
"""
_FLAGS = "--extra-cflags="


def flags(tuning: Tuning) -> list[str]:
    """Return the flags of each compiler call, as QEMU's configure passes them on."""
    words = [option.removeprefix(_FLAGS) for option in tuning.options if option.startswith(_FLAGS)]
    linked = ["-flto"] if "--enable-lto" in tuning.options else []
    return [*linked, *(word for text in words for word in shlex.split(text))]


def build(folder: Path, tuning: Tuning, *more: str) -> subprocess.CompletedProcess[str]:
    """Compile as ninja does: in the build folder, into a folder of the target."""
    (folder / "main.p").mkdir(parents=True, exist_ok=True)
    (folder / "main.c").write_text(SOURCE)
    call = shlex.join([COMPILER, "-O2", *flags(tuning), *more])
    steps = f"{call} -c main.c -o main.p/main.c.o && {call} main.p/main.c.o -o main"
    return subprocess.run(
        ["sh", "-c", steps], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def test_counts_of_a_run_are_found_in_another_folder(tmp_path: Path) -> None:
    training, final = tmp_path / "training", tmp_path / "final"
    profile = tmp_path / "profile.tar.xz"
    assert build(training, Tuning.TRAINING).returncode == 0
    subprocess.run([training / "main"], check=True, timeout=60)
    collect_profile(training, profile)
    place_profile(profile, final)
    missed = build(final, Tuning.PGO, "-Wmissing-profile", "-Werror")
    assert missed.returncode == 0, missed.stderr
    subprocess.run([final / "main"], check=True, timeout=60)


@pytest.mark.parametrize("warns", [True, False])
def test_the_control_a_compiler_without_counts_says_so_if_it_is_asked(
    tmp_path: Path, warns: bool
) -> None:
    more = ["-Wmissing-profile", "-Werror"] if warns else []
    assert (build(tmp_path, Tuning.PGO, *more).returncode != 0) is warns
