# SPDX-License-Identifier: GPL-2.0-or-later
"""Profiles and architectures are rows: their names and facts stand nowhere else, and are complete."""

import ast
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from cvmlab.attestation.services import SERVICES
from cvmlab.images.kernel_image import KernelKind
from cvmlab.machine.spec import BootSpec, Firmware
from cvmlab.memory.states import Layout, profiles
from cvmlab.profiles import architecture as rows_of_architectures
from cvmlab.profiles import profile as rows_of_profiles
from cvmlab.profiles.architecture import ARCHITECTURES, Architecture
from cvmlab.profiles.profile import Profile
from cvmlab.profiles.profile_rows import DEFAULT_PROFILE, NO_PROFILE, PROFILES
from cvmlab.results import costs
from tests.imports import PACKAGE, module_name, modules, package_of, tree_of


# Modules that may say a name, and what they mean by it.
MAY_NAME = {
    "generations.vms.exits": "types of VM in the kernel's KVM, which are no profiles",
    "generations.host.host_view": "a system call number of the machine that cvmlab runs on",
    "cli.doctor": "a system call number of the machine that cvmlab runs on",
    "qemu.recipe": "targets that a test links; cvmlab boots no guests of most of them",
    "collateral.tcb_documents": "parts of the paths of a vendor's service",
    "base.environment": "a sentence of help names the programs",
}
ARCHITECTURE_WORDS = re.compile(
    "|".join(
        rf"\b{re.escape(word)}\b"
        for row in ARCHITECTURES
        for word in (row.name, row.qemu, row.machine.type, row.console, row.agent)
    )
)
# "off" is not here: it is also what QEMU calls a property that is not set.
PROFILE_WORDS = {*PROFILES.names} - {NO_PROFILE} | {
    row.guest_object.type for row in PROFILES if row.guest_object
}


def strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of each string that is not a docstring, parts of f-strings among them."""
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node not in docstrings
        ):
            yield node.lineno, node.value


def names_a_row(text: str) -> bool:
    return text in PROFILE_WORDS or ARCHITECTURE_WORDS.search(text) is not None


def naming_modules() -> dict[str, list[str]]:
    """Return the strings that name a row, by module, for those outside of the rows' package."""
    found: dict[str, list[str]] = {}
    for path in modules():
        name = module_name(path)
        if package_of(name) == "profiles":
            continue
        for line, text in strings(tree_of(path)):
            if names_a_row(text):
                found.setdefault(name, []).append(f"{path.relative_to(PACKAGE)}:{line} {text!r}")
    return found


def test_only_rows_name_a_profile_or_an_architecture() -> None:
    found = naming_modules()
    assert [
        place for name, places in found.items() if name not in MAY_NAME for place in places
    ] == []
    assert sorted(MAY_NAME) == sorted(found)  # an exception that is not needed is taken back


@pytest.mark.parametrize(
    ("text", "is_name"),
    [
        ("tdx", True),
        ("sev-snp-guest", True),
        ("q35,smm=off", True),
        ("qemu-system-aarch64", True),
        ("virtio-blk", False),
        ("console=ttyS0", True),
        ("--target-list=x86_64-softmmu", True),
        ("boot it with --coco tdx", False),
        ("off", False),
    ],
)
def test_what_counts_as_naming_a_row(text: str, *, is_name: bool) -> None:
    assert names_a_row(text) is is_name


def test_each_profile_has_a_row_and_rules() -> None:
    assert PROFILES.where(lambda row: row.restricted) == tuple(profiles())
    assert PROFILES.where(lambda row: not row.restricted) == (NO_PROFILE,)
    assert BootSpec().coco == DEFAULT_PROFILE
    assert all(
        PROFILES.layout(name) in Layout for name in PROFILES.where(lambda row: row.restricted)
    )


@pytest.mark.parametrize("module", [rows_of_profiles, rows_of_architectures])
def test_no_fact_has_a_default(module: object) -> None:
    """A new fact has to be written into each row, and a new row has to have each fact."""
    kinds = [kind for kind in vars(module).values() if hasattr(kind, "__dataclass_fields__")]
    kinds = [kind for kind in kinds if isinstance(kind, type)]
    defaults = [
        f"{kind.__name__}.{fact.name}"
        for kind in kinds
        for fact in fields(kind)
        if fact.default is not MISSING or fact.default_factory is not MISSING
    ]
    assert kinds
    assert defaults == []


@pytest.mark.parametrize("row", list(PROFILES), ids=lambda row: row.name)
def test_the_facts_of_a_profile_fit_together(row: Profile) -> None:
    has_object = row.guest_object is not None
    assert row.restricted or not has_object
    for needs_object in (row.cpu_model, row.attestation, row.host_policy):
        assert has_object or not needs_object
    refused = [item.firmware for item in row.disk_refusals]
    assert row.sharing_firmware not in refused
    assert {*refused, row.sharing_firmware or Firmware.SEABIOS} <= set(Firmware)
    if refused:
        assert row.sharing_firmware is not None  # it is the hint
    assert row.attestation is None or row.attestation.service in SERVICES


def test_each_service_and_each_measured_hardware_has_a_profile() -> None:
    assert {row.attestation.service for row in PROFILES if row.attestation} == set(SERVICES)
    assert {row.costs for row in PROFILES} - {None} == {cost.coco for cost in costs.load()}


def test_each_firmware_and_each_profile_is_of_an_architecture() -> None:
    assert {word for row in ARCHITECTURES for word in row.firmware_words} == set(Firmware)
    for row in PROFILES:
        assert row.architectures
        assert set(row.architectures) <= set(ARCHITECTURES.names)


def test_what_names_a_thing_of_one_architecture_names_no_other() -> None:
    for fact in ("name", "debian", "qemu", "qemu_variable", "target", "console", "agent"):
        assert len({getattr(row, fact) for row in ARCHITECTURES}) == len(ARCHITECTURES.names)
    assert len({row.machine.type for row in ARCHITECTURES}) == len(ARCHITECTURES.names)


@pytest.mark.parametrize("row", list(ARCHITECTURES), ids=lambda row: row.name)
def test_the_facts_of_an_architecture_fit_together(row: Architecture) -> None:
    machine = row.machine
    assert set(row.firmware_words) <= set(Firmware)
    assert {row.kernel_firmware, row.disk_firmware} <= set(row.firmware_words)
    files = {Path(rom.file).name for rom in row.roms}
    assert {file for _, file in row.bios if file is not None} <= files
    assert set(row.kernel.kinds) <= set(KernelKind)
    assert set(row.kernel.unpacked) <= set(row.kernel.kinds)
    assert any(kind.endswith(Path(row.kernel.in_build_tree).name) for kind in row.kernel.kinds)
    assert f"console={row.console}" in row.append
    assert row.agent != row.console
    assert machine.min_memory_bytes < machine.large_memory_bytes < machine.max_memory_bytes
    assert machine.cpu_for(machine.large_memory_bytes - 1) == machine.cpu
    assert machine.cpu_for(machine.large_memory_bytes) == machine.large_memory_cpu
    assert row.symbols.kaslr_range % row.symbols.kaslr_step == 0
    assert row.symbols.entry_functions
