# SPDX-License-Identifier: GPL-2.0-or-later
"""What the sanitizers are told, and which lines of QEMU's log are a finding."""

import re
from pathlib import Path


FOLDER = Path(__file__).parent
_FINDING = re.compile(
    r"ERROR: (Address|Leak|Thread)Sanitizer|WARNING: ThreadSanitizer|runtime error:"
    r"|AddressSanitizer:DEADLYSIGNAL|Assertion .* failed|assertion failed|code should not be reached"
    r"|\(core dumped\)|Aborted|Unexpected error in"
)
_SUPPRESSED = "print_suppressions=0"


def environment() -> dict[str, str]:
    """Return the variables of a QEMU under sanitizers.

    Leaks are looked for when QEMU ends in order; its exit status stays what QEMU says, so that a
    test sees both.  The suppressions have a reason each, and go by the names of functions: glib has no
    frame pointers, so stacks are unwound by tables, as far as it takes to name who allocated.
    """
    return {
        "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1:detect_stack_use_after_return=0"
        ":fast_unwind_on_malloc=0:malloc_context_size=9",
        "LSAN_OPTIONS": f"exitcode=0:suppressions={FOLDER / 'lsan.supp'}:{_SUPPRESSED}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:suppressions={FOLDER / 'ubsan.supp'}",
    }


def findings(log: str) -> list[str]:
    """Return the lines of QEMU's log that report an error of QEMU, and what follows the first."""
    lines = log.splitlines()
    found = [index for index, line in enumerate(lines) if _FINDING.search(line)]
    if not found:
        return []
    return [*lines[found[0] : found[0] + 40], *(lines[index] for index in found[1:10])]


def assert_clean(log: Path, of: str) -> None:
    """Fail, with the first report, if QEMU's log has one."""
    found = findings(log.read_text(errors="replace"))
    assert not found, "\n".join([f"{of}:", *found])
