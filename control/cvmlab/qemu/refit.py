# SPDX-License-Identifier: GPL-2.0-or-later
"""Fit the series to several versions of QEMU: the first step of moving it to another one.

    python -m cvmlab.qemu.refit ~/qemu-10.0.13 ~/qemu-11.1.1

Each hunk gets the largest context that occurs exactly once in all source trees whose version takes
the patch, and the line numbers of the first tree.  Hunks that fit nowhere stay, and are listed:
they need a patch of their own for that version.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cvmlab.qemu.series import patches_for, series_dir
from cvmlab.qemu.source import tree_version


_CONTEXT = 3
_FILE = "--- a/"
_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@(.*)")


@dataclass(frozen=True, slots=True)
class Hunk:
    """``lines`` with their first character: blank, minus or plus."""

    lines: tuple[str, ...]
    heading: str

    @property
    def old(self) -> list[str]:
        return [line[1:] for line in self.lines if line[0] in " -"]

    @property
    def new(self) -> list[str]:
        return [line[1:] for line in self.lines if line[0] in " +"]

    def with_context(self, size: int) -> "Hunk":
        """Return the hunk with at most ``size`` lines of context at each end."""
        changed = [number for number, line in enumerate(self.lines) if line[0] != " "]
        first, last = changed[0], changed[-1] + 1
        return Hunk(self.lines[max(0, first - size) : last + size], self.heading)

    def text(self, at: int, shift: int) -> list[str]:
        """Return the lines of a patch file; ``at`` counts from 0, in a file changed by ``shift``."""
        old, new = len(self.old), len(self.new)
        return [f"@@ -{at + 1 - shift},{old} +{at + 1},{new} @@{self.heading}", *self.lines]


@dataclass(slots=True)
class Tree:
    """A source tree, in which the hunks seen so far have been applied, in memory."""

    root: Path
    version: str
    _files: dict[str, list[str]] = field(default_factory=dict)

    def lines(self, name: str) -> list[str]:
        if name not in self._files:
            path = self.root / name
            self._files[name] = path.read_text("utf-8").split("\n") if path.is_file() else []
        return self._files[name]

    def place_of(self, hunk: Hunk, name: str, after: int) -> int | None:
        """Return where in the file the hunk fits, if that is one place and comes ``after``."""
        lines, old = self.lines(name), hunk.old
        places = [
            start
            for start in range(len(lines) - len(old) + 1)
            if lines[start] == old[0] and lines[start : start + len(old)] == old
        ]
        return places[0] if len(places) == 1 and places[0] >= after else None

    def apply(self, hunk: Hunk, name: str, at: int) -> None:
        self.lines(name)[at : at + len(hunk.old)] = hunk.new


def refit(text: str, trees: Sequence[Tree]) -> tuple[str, list[str]]:
    """Return the patch, refitted, and the hunks that do not fit, by file, line and versions."""
    written: list[str] = []
    misfits: list[str] = []
    name, shift, ends = "", 0, [0] * len(trees)
    for part in _parts(text):
        if isinstance(part, str):
            if part.startswith(_FILE):
                name, shift, ends = part.removeprefix(_FILE), 0, [0] * len(trees)
            written.append(part)
            continue
        raw, hunk = part
        fitted, places = _fit(hunk, name, trees, ends)
        for number, (tree, at) in enumerate(zip(trees, places, strict=True)):
            if at is not None:
                tree.apply(fitted, name, at)
                ends[number] = at + len(fitted.new)
        if None in places:
            where = [tree.version for tree, at in zip(trees, places, strict=True) if at is None]
            misfits.append(f"{name}: {raw[0]} does not fit {', '.join(where)}")
            written += raw
        elif places[0] is not None:
            written += fitted.text(places[0], shift)
            shift += len(fitted.new) - len(fitted.old)
    return "\n".join(written), misfits


def _fit(
    hunk: Hunk, name: str, trees: Sequence[Tree], ends: Sequence[int]
) -> tuple[Hunk, list[int | None]]:
    """Return the hunk with the context that fits most trees, the largest of these, and its places."""
    tried = []
    for size in range(_CONTEXT, 0, -1):
        smaller = hunk.with_context(size)
        places = [tree.place_of(smaller, name, end) for tree, end in zip(trees, ends, strict=True)]
        tried.append((smaller, places))
        if None not in places:
            break
    return min(tried, key=lambda attempt: attempt[1].count(None))


def _parts(text: str) -> Iterator[str | tuple[list[str], Hunk]]:
    """Yield the lines outside hunks, and the hunks with their lines as they are."""
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        head = _HUNK.fullmatch(lines[at])
        if head is None:
            yield lines[at]
            at += 1
            continue
        old, new = int(head[1] or 1), int(head[2] or 1)
        end = at + 1
        while old > 0 or new > 0:
            old -= lines[end][:1] != "+"
            new -= lines[end][:1] != "-"
            end += 1
        yield lines[at:end], Hunk(tuple(line or " " for line in lines[at + 1 : end]), head[3])
        at = end


def main(roots: Sequence[str]) -> int:
    """Refit the series of this repository; return 1 if some hunk does not fit."""
    trees = [Tree(Path(root), tree_version(Path(root))) for root in roots]
    takers: dict[Path, list[Tree]] = {}
    for tree in trees:
        for file in patches_for(tree.version, series_dir()):
            takers.setdefault(file, []).append(tree)
    misfits = []
    for file in sorted(takers, key=lambda path: path.name):
        text, found = refit(file.read_text("utf-8"), takers[file])
        file.write_text(text, "utf-8")
        misfits += [f"{file.relative_to(series_dir())}: {hunk}\n" for hunk in found]
    sys.stdout.write("".join(misfits) or "all hunks fit\n")
    return 1 if misfits else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
