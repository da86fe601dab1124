# SPDX-License-Identifier: GPL-2.0-or-later
"""The bare guest walks the CPUID tables: each row is obeyed, or is a deviation of docs/deviations.md."""

import pytest

from tests.guest_tables import Row, tables
from tests.qemu.bare import BareGuest, Fault
from tests.qemu.conftest import Boot
from tests.qemu.snp import CPUID as SVM_CPUID
from tests.qemu.snp import VECTOR_VC
from tests.qemu.tdx import CPUID, REPORT, SHARED, SUCCESS, tdcall
from tests.qemu.test_tables_msr import FEATURES, VECTOR_VE, begin, options


pytestmark = pytest.mark.qemu

REGISTERS = ("eax", "ebx", "ecx", "edx")
XFAM = 0x207
Registers = dict[str, int]


def cpuid(guest: BareGuest, leaf: int, subleaf: int = 0) -> Registers:
    answer = guest.run("cpuid", leaf, subleaf)
    assert isinstance(answer, tuple), (hex(leaf), answer)
    return dict(zip(REGISTERS, answer, strict=True))


def broken(row: Row, found: Registers) -> int:
    """Return the bits of a mask's register that are not as the module leaves them."""
    value = found[row["reg"]]
    wrong: int = value & row["zero"] & ~row["one"] & ~row["own"]
    wrong |= ~value & row["one"]
    return wrong if "deviation" in row else wrong | (~value & int(row["need"]))


@pytest.mark.fault("F11", "F12")
@pytest.mark.parametrize("mode", ["lazy", "strict"])
async def test_each_leaf_is_answered_as_the_module_does(boot: Boot, mode: str) -> None:
    async with boot(**options("tdx", mode)) as vm:
        guest = begin(vm)
        last = cpuid(guest, 0x23)
        for row in tables("tdx")["cpuid-leaf"]:
            if row["answer"] == "exception" and mode == "strict":
                fault = guest.fault("cpuid", row["first"], row["subleaf"])
                assert (fault.vector, fault.error) == (VECTOR_VE, CPUID), hex(row["first"])
                continue
            for leaf in (row["first"], row["last"]):
                found = cpuid(guest, leaf, row["subleaf"])
                has = row["when"] in FEATURES["tdx"]
                if row["answer"] == "zero" or (row["answer"] == "masked" and not has):
                    assert set(found.values()) == {0}, hex(leaf)
                elif row["answer"] == "last-leaf":
                    assert found == last, hex(leaf)


@pytest.mark.fault("F11", "F12")
async def test_each_bit_is_as_the_module_leaves_it(boot: Boot) -> None:
    unseen = {row["first"] for row in tables("tdx")["cpuid-leaf"] if "deviation" in row}
    without = {
        row["first"] for row in tables("tdx")["cpuid-leaf"] if row["when"] not in FEATURES["tdx"]
    }
    async with boot(coco="tdx") as vm:
        guest = begin(vm)
        for row in tables("tdx")["cpuid-mask"]:
            if row["leaf"] not in unseen | without:
                found = cpuid(guest, row["leaf"], row["subleaf"])
                assert broken(row, found) == 0, (row, {k: hex(v) for k, v in found.items()})
        for row in tables("tdx")["cpuid-feature"]:
            found = cpuid(guest, row["leaf"], row["subleaf"])
            if row["when"] not in FEATURES["tdx"]:
                assert found[row["reg"]] & row["mask"] == 0, row


@pytest.mark.fault("F12", "F16")
async def test_xfam_is_the_same_wherever_it_shows(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        guest = begin(vm)
        state = cpuid(guest, 0xD)
        assert (state["eax"], state["edx"]) == (XFAM, 0)
        assert state["ecx"] == 2688 + 8  # PKRU is the last
        for bit in range(2, 63):
            assert (cpuid(guest, 0xD, bit)["eax"] != 0) == bool(XFAM >> bit & 1), bit
        assert cpuid(guest, 0x80000008)["eax"] == 52 | 57 << 8  # with LA57
        report = vm.guest
        assert tdcall(report, REPORT, rcx=0x2000000, rdx=0x2001000).rax == SUCCESS
        assert report.value("read", 0x2000000 + 512 + 8) == XFAM
    assert SHARED


@pytest.mark.parametrize("coco", ["sev-es", "sev-snp"])
async def test_a_strict_guest_is_not_told_by_the_cpu(boot: Boot, coco: str) -> None:
    async with boot(**options(coco, "strict")) as vm:
        for leaf in (0, 1, 7, 0x40000000, 0x8000001F):
            fault = vm.guest.fault("cpuid", leaf, 0)
            assert (fault.vector, fault.error) == (VECTOR_VC, SVM_CPUID)
        assert not isinstance(vm.guest.run("cpuid", 0xD, 0), Fault)  # a deviation


def breaks(row: Row, value: int) -> bool:
    """Return whether the firmware refuses *value* in the CPUID page."""
    part = value & row["mask"]
    match row["rule"]:
        case "subset":
            return bool(part & ~row["value"])
        case "at-most":
            return bool(part > row["value"])
        case "equal":
            return bool(part != row["value"])
    return False


@pytest.mark.fault("F19")
async def test_the_default_model_passes_the_firmwares_policy(boot: Boot) -> None:
    platform = (0x1, 0x80000001)  # family, model and stepping: at most the platform's
    wrong = []
    async with boot(coco="sev-snp") as vm:
        highest = cpuid(vm.guest, 0)["eax"], cpuid(vm.guest, 0x80000000)["eax"]
        states = cpuid(vm.guest, 0xD)["eax"]
        for row in tables("sev")["cpuid-policy"]:
            leaf = row["leaf"]
            if leaf == 0xD and row["subleaf"] > 1 and not states >> row["subleaf"] & 1:
                continue
            if leaf > highest[leaf >> 31] or (leaf in platform and row["rule"] == "at-most"):
                continue
            found = cpuid(vm.guest, leaf, row["subleaf"])
            if not any(found.values()) or (leaf, row["subleaf"], row["reg"]) == (0xD, 1, "ebx"):
                continue  # no entry in the page; and there the page has a value of its own
            value = found[row["reg"]]
            if leaf == 1 and row["reg"] == "ecx":
                value &= ~(1 << 27 | 1 << 31)  # OSXSAVE and the hypervisor bit are unchecked
            if breaks(row, value):
                wrong.append((hex(leaf), row["subleaf"], row["reg"], hex(value), hex(row["value"])))
    assert not wrong, "\n".join(map(str, wrong))
