# SPDX-License-Identifier: GPL-2.0-or-later
"""The patches for QEMU itself: which of them a version of QEMU takes, and how they are applied.

``NNNN-*.patch`` in plugin/patches are for every version.  A folder there is named after the first
version that needs other patches; each replaces the one of the same number.
"""

import re
from pathlib import Path

from cvmlab.base.errors import BuildError
from cvmlab.base.resources import plugin_dir
from cvmlab.base.steps import Steps


_PATCH_DEADLINE_S = 30.0
# What patch(1) says, in the C locale.
_PATCHING = "patching file "
_REJECTED = re.compile(r"Hunk #\d+ FAILED at (\d+)")


def series_dir() -> Path:
    """Return the folder of the plugin's patches."""
    return plugin_dir() / "patches"


def patches(folder: Path) -> dict[Path, Path]:
    """Return all patches, those of every version of QEMU: the name in *folder* -> the file."""
    return {file.relative_to(folder): file for file in sorted(folder.rglob("*.patch"))}


def patches_for(version: str, folder: Path) -> list[Path]:
    """Return the patches for that version of QEMU in the order they apply."""
    chosen: dict[str, Path] = {}
    for name, file in sorted(patches(folder).items(), key=lambda item: _since(item[0])):
        if _since(name) <= numbers(version):
            chosen[name.name.partition("-")[0]] = file
    return [chosen[number] for number in sorted(chosen)]


def apply(files: list[Path], tree: Path, steps: Steps) -> list[str]:
    """Apply patches to a fresh tree, each exactly; return the hunks that do not fit.

    A hunk is named by patch, file and line.  Raise BuildError if patch(1) fails in another way.
    """
    return [hunk for file in files for hunk in _apply(file, tree, steps)]


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, to compare it: (10, 0, 13)."""
    return tuple(int(number) for number in re.findall(r"\d+", version)) or (0,)


def series_of(version: str) -> str:
    """Return the series of stable releases that a version belongs to: 10.0 for 10.0.13."""
    return ".".join(version.split(".")[:2])


def _since(patch: Path) -> tuple[int, ...]:
    """Return the first version that takes this patch; () is before every version."""
    return tuple(number for folder in patch.parts[:-1] for number in numbers(folder))


def _apply(file: Path, tree: Path, steps: Steps) -> list[str]:
    rejected: list[str] = []
    patched = ""

    def take(line: str) -> None:
        nonlocal patched
        if line.startswith(_PATCHING):
            patched = line.removeprefix(_PATCHING)
        elif failed := _REJECTED.match(line):
            rejected.append(f"{file.name}: {patched}:{failed[1]}")

    try:
        steps.run(
            ["patch", "-p1", "--fuzz=0", "--force", "--input", file],
            what=f"applying {file.name}",
            deadline_s=_PATCH_DEADLINE_S,
            cwd=tree,
            on_line=take,
        )
    except BuildError:
        if not rejected:
            raise
    return rejected
