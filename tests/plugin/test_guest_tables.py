# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of what a guest sees, as compiled: tables.h has each word and each column of theirs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest_tables import GENERATOR, PROFILES, TECHNOLOGIES


@pytest.mark.parametrize("technology", TECHNOLOGIES)
def test_the_rows_compile(tmp_path: Path, technology: str) -> None:
    if shutil.which("cc") is None:
        if os.environ.get("CVMLAB_REQUIRE") == "1":
            pytest.fail("no C compiler (cc), and CVMLAB_REQUIRE=1")
        pytest.skip("no C compiler (cc) to compile the tables with")
    generator = [sys.executable, str(GENERATOR), "c", str(PROFILES / technology)]
    rows = subprocess.run(generator, capture_output=True, text=True, check=True).stdout
    source = tmp_path / "rows.c"
    source.write_text(f'#include "tables.h"\n{rows}', encoding="utf-8")
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-const-variable"]
    command = ["cc", *flags, "-fsyntax-only", f"-I{PROFILES}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
