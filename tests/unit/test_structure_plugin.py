# SPDX-License-Identifier: GPL-2.0-or-later
"""What the plugin's folders are held to: which words and headers each of them may use."""

import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest


PLUGIN = Path(__file__).resolve().parents[2] / "plugin"
HOME = "hw/restricted-memory/"

# Vendors, their interfaces, and architectures: each has a folder of its own.
VENDOR_WORDS = (
    "amd",
    "arm",
    "cca",
    "ghcb",
    "intel",
    "pkvm",
    "psp",
    "pvalidate",
    "rmp",
    "rsi",
    "sev",
    "snp",
    "td",
    "tdcall",
    "tdvf",
    "tdx",
    "vmcall",
    "vmgexit",
)
ARCHITECTURE_WORDS = (
    "aarch64",
    "apic",
    "cpuid",
    "cr3",
    "eax",
    "eip",
    "i386",
    "msr",
    "q35",
    "rax",
    "rflags",
    "rip",
    "smm",
    "vapic",
    "x86",
    "xmm",
)
# A part of a name counts: tdx_guest, R_EAX and X86CPU do, "device" and "second" do not.
FORBIDDEN = re.compile(
    r"(?<![a-z])(?:" + "|".join(VENDOR_WORDS + ARCHITECTURE_WORDS) + r")(?![a-z])"
    r"|X86CPU|CPUX86State|#V[CE]\b",
    re.IGNORECASE,
)
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)
# 21 of them are for the second architecture: TLB fills, calls, the CPUs' root, an address bit, and
# the schema of its guest object.  Three are certs-path, which upstream's schema does not have yet.
MAX_ADDED_LINES = 281
# What each folder may include of the plugin: a prefix of the path in QEMU's tree.
MAY_INCLUDE = {
    "core": ("rmem.h",),
    "qemu": ("core/", "qemu/", "trace.h"),
    "qemu/arm": ("core/", "qemu/", "profiles/arm.h", "trace.h"),
    "qemu/x86": ("core/", "qemu/", "profiles/x86.h", "trace.h"),
    "profiles": ("core/", "qemu/", "profiles/", "trace.h"),
    "profiles/cca": ("core/", "qemu/", "profiles/", "trace.h"),
    "profiles/sev": ("core/", "qemu/", "profiles/", "sev-tables.inc", "trace.h"),
    "profiles/tdx": ("core/", "qemu/", "profiles/", "tdx-tables.inc", "trace.h"),
}
MAY_NOT_INCLUDE = {
    "qemu": ("qemu/arm/", "qemu/x86/"),
    "qemu/arm": ("qemu/x86/",),
    "qemu/x86": ("qemu/arm/",),
    "profiles": ("profiles/cca/", "profiles/sev/", "profiles/tdx/"),
    "profiles/cca": ("qemu/x86/", "profiles/sev/", "profiles/tdx/"),
    "profiles/sev": ("qemu/arm/", "profiles/cca/", "profiles/tdx/"),
    "profiles/tdx": ("qemu/arm/", "profiles/cca/", "profiles/sev/"),
}


def sources(folder: str) -> list[Path]:
    """Return the C files of one folder, without those of the folders in it."""
    return sorted(path for path in (PLUGIN / folder).iterdir() if path.suffix in {".c", ".h"})


def plugin_includes(path: Path) -> list[str]:
    """Return what ``path`` includes of the plugin, relative to plugin/."""
    found = INCLUDE.findall(path.read_text(encoding="utf-8"))
    return [name.removeprefix(HOME) for name in found if name.startswith(HOME)]


def words_found(path: Path) -> Iterator[str]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for word in FORBIDDEN.findall(line):
            yield f"{path.relative_to(PLUGIN)}:{number}: {word}"


@pytest.mark.parametrize("folder", ["core", "qemu"])
def test_what_serves_any_target_names_no_vendor_and_no_architecture(folder: str) -> None:
    assert [found for path in sources(folder) for found in words_found(path)] == []


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("    env->regs[R_EAX] = 0;", True),
        ("X86CPU *cpu;", True),
        ("X86_CPU(cs)", True),
        ("static bool tdx_attach(void)", True),
        ("/* raises #VC in the guest */", True),
        ("a device that converts a second page", False),
        ("the warmest part of a description", False),
    ],
)
def test_forbidden_words_are_told_from_parts_of_others(line: str, is_found: bool) -> None:
    assert bool(FORBIDDEN.search(line)) == is_found


def test_every_folder_of_the_plugin_says_what_it_may_include() -> None:
    folders = {path.parent.relative_to(PLUGIN).as_posix() for path in PLUGIN.rglob("*.c")}
    assert folders == set(MAY_INCLUDE)


@pytest.mark.parametrize("folder", MAY_INCLUDE)
def test_a_folder_includes_only_what_is_below_it(folder: str) -> None:
    wrong = [
        f"{path.relative_to(PLUGIN)} includes {name}"
        for path in sources(folder)
        for name in plugin_includes(path)
        if not name.startswith(MAY_INCLUDE[folder])
        or name.startswith(MAY_NOT_INCLUDE.get(folder, ()))
    ]
    assert wrong == []


def test_the_core_includes_no_header_of_qemu() -> None:
    names = {
        name
        for path in sources("core")
        for name in INCLUDE.findall(path.read_text(encoding="utf-8"))
    }
    assert names == {"history.h", "rmem.h", "stacks.h", "words.h", "transitions.inc"}


def test_no_header_includes_itself_through_others() -> None:
    headers = {
        path.relative_to(PLUGIN).as_posix(): plugin_includes(path) for path in PLUGIN.rglob("*.h")
    }
    order = list(TopologicalSorter(headers).static_order())  # raises CycleError
    assert set(headers) <= set(order)


def test_qemu_compiles_every_file() -> None:
    listed = set(re.findall(r"'([a-z0-9/-]+\.c)'", (PLUGIN / "meson.build").read_text()))
    assert listed == {path.relative_to(PLUGIN).as_posix() for path in PLUGIN.rglob("*.c")}


def test_patches_include_only_hooks() -> None:
    patches = "".join(path.read_text() for path in (PLUGIN / "patches").glob("*.patch"))
    names = set(re.findall(rf'^\+#include "{HOME}([^"]+)"', patches, re.MULTILINE))
    assert names == {"qemu/hooks.h", "qemu/arm/hooks-arm.h", "qemu/x86/hooks-x86.h"}


@pytest.mark.parametrize("version", ["", "10.2", "11.1"])
def test_the_series_is_small(version: str) -> None:
    """What stands in the folder of a version replaces the patch of the same number."""
    folders = [PLUGIN / "patches", *([PLUGIN / "patches" / version] if version else [])]
    series = {path.name[:4]: path for folder in folders for path in folder.glob("*.patch")}
    added = [
        line
        for path in series.values()
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("+") and not line.startswith("+++ ")
    ]
    assert len(added) <= MAX_ADDED_LINES


def test_no_cpu_state_is_restored_twice() -> None:
    """Each time takes back what was counted (-icount): restricted_execute_again() knows how often."""
    restoring = [
        path.name
        for path in PLUGIN.rglob("*.c")
        if re.search(r"\bcpu_(loop_exit_)?restore(_state)?\(", path.read_text())
    ]
    assert restoring == ["recording.c"]


def test_the_schema_is_as_narrow_as_qemu_wants_it() -> None:
    """QEMU 11.1 refuses longer lines of documentation (scripts/qapi/parser.py); examples may be."""
    long = [
        f"{path.name}:{number}"
        for path in sorted(PLUGIN.glob("qapi/*.json"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.startswith("#") and not line.startswith("#  ") and len(line) > 70
    ]
    assert long == []
