# SPDX-License-Identifier: GPL-2.0-or-later
"""`cvmlab test`: install and build what tests need, then run them with tox.  Needs a checkout."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cvmlab.base.errors import ConfigError, NoSourceError
from cvmlab.base.paths import checkout_dir
from cvmlab.debian import apt
from cvmlab.qemu.build import qemu_binary, rom_dirs, stock_qemu_binary
from cvmlab.qemu.versions import VERSIONS
from cvmlab.testing.level_durations import durations, table


def main(arguments: Sequence[str]) -> int:
    """Run tox with ``arguments``, print how long each level took, and return tox's exit code.

    Without arguments all levels run.  QEMU is then built first, so that its progress can be seen.
    """
    root = checkout_dir()
    if root is None:
        raise ConfigError("tests run from a checkout only", hint="clone the repository")
    if importlib.util.find_spec("tox") is None:
        raise ConfigError("tox is not installed", hint="run ./cvmlab test, which installs it")
    apt.ensure([apt.Need.BUILD, apt.Need.TEST, apt.Need.DISK, apt.Need.FOLDER])
    if not arguments:
        _build()
    report = report_file(root, arguments)
    report.parent.mkdir(exist_ok=True)
    report.unlink(missing_ok=True)
    tox = [sys.executable, "-m", "tox", "run", "-c", os.fspath(root / "tox.ini")]
    status = subprocess.run(
        [*tox, "--result-json", os.fspath(report), *arguments], check=False
    ).returncode
    if report.exists():  # not after `--help`
        sys.stdout.writelines(f"{line}\n" for line in table(durations(report.read_text())))
    return status


def report_file(root: Path, arguments: Sequence[str] = ()) -> Path:
    """Return where tox writes its report.

    A run of chosen tests (after ``--``) has a file of its own: it does not tell how long the level
    takes, so ``python -m tests.durations`` must not see it.
    """
    return root / ".tox" / ("chosen-tests.json" if "--" in arguments else "durations.json")


def _build() -> None:
    """Build every version of QEMU with the plugin, and the default one without it, too.

    A version without a source is left out.
    """
    qemu_binary()
    stock_qemu_binary(VERSIONS[0].name)
    for version in VERSIONS[1:]:
        try:
            qemu_binary(version.name)
        except NoSourceError as error:
            sys.stderr.write(f"cvmlab: {error.message}; its tests are skipped\n")
    rom_dirs()
