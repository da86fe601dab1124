# SPDX-License-Identifier: GPL-2.0-or-later
"""A matrix's result for people and for CI systems: a table, Markdown, TAP; junit.py makes JUnit."""

from collections.abc import Iterator

from cvmlab.matrix.verdict import CellResult, CellVerdict, MatrixResult


_KNOWN = "TO" + "DO"  # TAP's word; in pieces, because ours it is not


def text(result: MatrixResult) -> str:
    """Return the table that ends the run on a terminal."""
    width = max((len(cell.id) for cell in result.cells), default=0)
    lines = [f"{cell.verdict:<9}{cell.id:<{width}}{_time(cell)}" for cell in result.cells]
    lines += ["", *_bad(result), f"{summary(result)} (exit code {result.exit_code})"]
    return "\n".join(lines) + "\n"


def summary(result: MatrixResult) -> str:
    """Return the counts in a sentence."""
    said = ", ".join(f"{result.counts[verdict]} {verdict}" for verdict in CellVerdict)
    return f"{result.name}: {len(result.cells)} cells, {said}"


def _time(cell: CellResult) -> str:
    return f"{cell.seconds:9.1f} s" if cell.result is not None or cell.seconds else ""


def _bad(result: MatrixResult) -> Iterator[str]:
    for cell in result.cells:
        if cell.verdict is CellVerdict.PASSED:
            continue
        yield f"{cell.verdict} {cell.id}: {_told(cell)}"
        if cell.folder is not None:
            yield f"  {cell.folder}"
    if any(cell.verdict is not CellVerdict.PASSED for cell in result.cells):
        yield ""


def _told(cell: CellResult) -> str:
    if cell.verdict is CellVerdict.UNSTABLE:
        return f"{cell.message} (unstable: {cell.reason})"
    return cell.message


def tap(result: MatrixResult) -> str:
    """Return TAP 13: an ignored cell is SKIP, an unstable one that failed is a known one."""
    lines = ["TAP version 13", f"1..{len(result.cells)}"]
    for number, cell in enumerate(result.cells, 1):
        good = cell.verdict in (CellVerdict.PASSED, CellVerdict.IGNORED)
        line = f"{'ok' if good else 'not ok'} {number} - {cell.id}"
        if cell.verdict is CellVerdict.IGNORED:
            line += f" # SKIP {_tap(cell.message)}"
        elif cell.verdict is CellVerdict.UNSTABLE:
            line += f" # {_KNOWN} {_tap(cell.reason or '')}"
        lines.append(line)
        if not good:
            lines.append(f"# {_tap(cell.message)}")
    return "\n".join(lines) + "\n"


def _tap(sentence: str) -> str:
    return " ".join(sentence.replace("#", "\\#").split())


def markdown(result: MatrixResult) -> str:
    """Return a summary with a table, as a CI job shows it."""
    lines = [
        f"### {result.name}: {'passed' if result.exit_code == 0 else 'not passed'}",
        "",
        f"{summary(result)}. Emulated: page states and visibility only.",
        "",
        "| cell | verdict | seconds | what happened |",
        "|---|---|---:|---|",
    ]
    lines += [
        f"| {_cell(cell.id)} | {cell.verdict} | {cell.seconds:.1f} | {_cell(_told(cell))} |"
        for cell in result.cells
    ]
    return "\n".join(lines) + "\n"


def _cell(words: str) -> str:
    return " ".join(words.replace("|", "\\|").split())
