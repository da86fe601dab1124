# SPDX-License-Identifier: GPL-2.0-or-later
"""What proves that a guest's kernel took part, and what is said of one that did not."""

import gzip
from pathlib import Path

import pytest

from cvmlab.boot.awareness import hint, unaware, weigh
from cvmlab.images.kernel_tree import kernel_config
from cvmlab.profiles.profile import Interface
from cvmlab.profiles.profile_rows import PROFILES
from tests.fakes import kernel_files


pytestmark = pytest.mark.fault("F3")

WITH_INTERFACE = [row.name for row in PROFILES if row.interface is not None]


def interface(coco: str = "tdx") -> Interface:
    found = PROFILES[coco].interface
    assert found is not None
    return found


def told(
    coco: str = "tdx",
    *,
    kernel: int = 0,
    early: int = 0,
    kernel_ran: bool = True,
    first_exit: str | None = None,
) -> str | None:
    row = PROFILES[coco].interface
    counts = {"kernel_calls": kernel, "early_calls": early}
    return unaware(row, weigh(row, counts, kernel_ran=kernel_ran, first_exit=first_exit))


def test_every_profile_has_decided_what_its_kernels_speak() -> None:
    required = {row.name for row in PROFILES if row.interface and row.interface.required}
    assert set(WITH_INTERFACE) == {"sw-protected", "tdx", "sev", "sev-es", "sev-snp", "cca"}
    assert required == {"tdx", "sev", "sev-es", "sev-snp", "cca"}


@pytest.mark.parametrize("coco", ["tdx", "sev", "sev-es", "sev-snp"])
def test_only_a_call_of_its_own_shows_that_a_kernel_speaks(coco: str) -> None:
    assert told(coco, kernel=1) is None
    for early in (0, 500):  # firmware calls, too
        text = told(coco, early=early)
        assert text is not None
        assert text.startswith(f"the guest's kernel never spoke {interface(coco).name}: ")
        assert "on hardware it" in text


def test_where_it_would_have_died_is_said() -> None:
    died = "RDMSR 0x8b in load_ucode"
    text = told(first_exit=died)
    assert text is not None
    assert text.endswith("#VE, which it does not handle: at the latest at RDMSR 0x8b in load_ucode")
    assert told(kernel=1, first_exit=died) is None
    spoken = weigh(
        interface(), {"kernel_calls": 1, "early_calls": 0}, kernel_ran=True, first_exit=died
    )
    assert spoken is not None
    assert spoken.first_exit is None


def test_where_no_kernel_ran_any_call_will_do() -> None:
    assert told(early=1, kernel_ran=False) is None
    assert told(kernel_ran=False) == "the guest never spoke TDX: there was no TDCALL"


@pytest.mark.parametrize("coco", ["generic", "sw-protected", "off"])
def test_other_guests_may_be_silent(coco: str) -> None:
    assert told(coco) is None


@pytest.mark.parametrize(
    ("release", "config", "expected"),
    [
        ("6.1.0-1-cloud", "CONFIG_X86=y\n", "CONFIG_INTEL_TDX_GUEST is not set"),
        ("6.1.0", "# CONFIG_INTEL_TDX_GUEST is not set\n", "CONFIG_INTEL_TDX_GUEST is not set"),
        ("5.10.0-30", None, "it is Linux 5.10.0-30, and that came with 5.19"),
        ("5.10.0", "CONFIG_INTEL_TDX_GUEST=y\n", "it is Linux 5.10.0, and that came with 5.19"),
    ],
)
def test_the_hint_says_what_the_kernel_lacks(
    release: str, config: str | None, expected: str
) -> None:
    assert hint(interface(), release, config) == f"this kernel has no TDX support: {expected}"


@pytest.mark.parametrize("release", [None, "6.12.1", "mine"])
def test_without_a_reason_the_hint_says_what_a_kernel_needs(release: str | None) -> None:
    text = hint(interface(), release, None)
    assert "Linux 5.19 or later with CONFIG_INTEL_TDX_GUEST=y" in text
    assert "--allow-unaware" in text


def test_a_configuration_is_found_beside_the_kernel_and_inside_it(tmp_path: Path) -> None:
    inside = b"IKCFG_ST" + gzip.compress(b"CONFIG_INSIDE=y\n") + b"IKCFG_ED"
    kernel = tmp_path / "vmlinux"
    note = kernel_files.pvh_note(0x1000)
    kernel.write_bytes(kernel_files.elf({".note.pvh": note}) + inside)
    assert kernel_config(kernel) == "CONFIG_INSIDE=y\n"
    (tmp_path / ".config").write_text("CONFIG_BESIDE=y\n")
    assert kernel_config(kernel) == "CONFIG_BESIDE=y\n"
    (tmp_path / ".config").unlink()
    kernel.write_bytes(kernel_files.elf({".note.pvh": note}))
    assert kernel_config(kernel) is None
    kernel.write_bytes(kernel.read_bytes() + b"IKCFG_STgarbageIKCFG_ED")
    assert kernel_config(kernel) is None
