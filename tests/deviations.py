# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the emulation is not what its sources say: ``python -m tests.deviations > docs/deviations.md``.

Two kinds of data have them: the tables of what a guest sees (rows with a ``deviation``, features that
a CPU model lacks), and the faults of faults.toml that have a reason instead of a test.
"""

import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.guest_tables import TECHNOLOGIES, Row, tables


FAULTS = Path(__file__).parent / "faults.toml"
TECHNOLOGY_NAMES = {"tdx": "Intel TDX", "sev": "AMD SEV-ES and SEV-SNP"}
KINDS = {
    "msr": "RDMSR and WRMSR in the guest",
    "host-msr": "RDMSR and WRMSR that the host runs for the guest",
    "arch-capability": "IA32_ARCH_CAPABILITIES",
    "cpuid-leaf": "CPUID leaves",
    "cpuid-mask": "CPUID bits",
    "control-bit": "Control registers",
    "instruction": "Instructions, by VMX exit reason",
    "exit": "Exits, by SVM exit code",
    "check": "Checks of an instruction",
    "ghcb-request": "The GHCB MSR protocol",
    "ghcb-exit": "Exits by a GHCB page",
}
HEAD = """# Deviations

Where a guest sees something else here than its sources say, and why. Made by `python -m tests.deviations > docs/deviations.md`
from the tables in plugin/profiles and from tests/faults.toml; a test compares.
"""


def table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
    yield ""


def place(row: Row) -> str:
    """Return which register, leaf or code a row is about."""
    if "leaf" in row:
        subleaf = f"/{row['subleaf']:#x}" if row["subleaf"] else ""
        return f"{row['leaf']:#x}{subleaf} {row['reg'].upper()}"
    if "instruction" in row:
        return f"{row['instruction'].upper()}, step {row['step']}"
    register = f"{row['reg'].upper()} " if "reg" in row else ""
    if register or "td" in row:
        bits = (
            f"bit {row['first']}"
            if row["first"] == row["last"]
            else f"bits {row['first']}-{row['last']}"
        )
        return register + bits
    last = f"-{row['last']:#x}" if row["last"] != row["first"] else ""
    return f"{row['first']:#x}{last}"


def of_tables(technology: str) -> Iterator[str]:
    """Yield the sections of a technology's tables."""
    for kind, title in KINDS.items():
        rows = [row for row in tables(technology).get(kind, ()) if "deviation" in row]
        if rows:
            yield f"### {title}"
            yield ""
            cells = ((place(r), r.get("name", ""), r["deviation"], r["source"]) for r in rows)
            yield from table(("which", "name", "here", "source"), cells)
    yield "### CPU models: features that QEMU's software CPU does not have"
    yield ""
    lacks = (
        (model["product"], ", ".join(group["features"]), group["reason"])
        for model in tables(technology)["cpu-model"]
        for group in model["removed"]
    )
    yield from table(("model", "features", "why"), lacks)


def of_faults() -> Iterator[str]:
    """Yield the faults that have a reason instead of a test."""
    groups = tomllib.loads(FAULTS.read_text(encoding="utf-8"))
    reasons = groups.pop("deviations")
    promises = {name: text for group in groups.values() for name, text in group.items()}
    yield "## Faults found from outside that have a reason instead of a test"
    yield ""
    rows = ((name, promises[name], reason) for name, reason in sorted(reasons.items()))
    yield from table(("id", "what would hold", "why it does not"), rows)


def document() -> str:
    """Return docs/deviations.md."""
    lines = [HEAD]
    for technology in TECHNOLOGIES:
        lines += [f"## {TECHNOLOGY_NAMES[technology]}", "", *of_tables(technology)]
    return "\n".join([*lines, *of_faults()])


if __name__ == "__main__":
    sys.stdout.write(document())
