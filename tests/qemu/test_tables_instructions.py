# SPDX-License-Identifier: GPL-2.0-or-later
"""The bare guest walks instructions and control registers: each row is obeyed, or is a deviation."""

import subprocess
from pathlib import Path

import pytest

from tests.guest_tables import Row, tables
from tests.qemu.bare import BareGuest, Fault
from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.snp import SNP, VECTOR_UD, VECTOR_VC, to_shared, wait_stop
from tests.qemu.tdx import become_td
from tests.qemu.test_tables_msr import FEATURES, VECTOR_GP, VECTOR_VE, begin, options


pytestmark = pytest.mark.qemu

CODE = page(200)
RET = b"\xc3"
# Machine code by VMX exit reason; what the CPU needs first is in it (ECX = 0 and so on).
VMX = {
    10: b"\xb8\x06\0\0\0\x0f\xa2",  # leaf 6
    11: b"\x0f\x37",
    12: b"\xf4",
    13: b"\x0f\x08",
    15: b"\x31\xc9\x0f\x33",
    17: b"\x0f\xaa",
    18: b"\x0f\x01\xc1",
    19: b"\x66\x0f\xc7\x30",
    30: b"\xba\xff\x03\0\0\xec",
    50: b"\x66\x0f\x38\x80\x00",
    53: b"\x66\x0f\x38\x81\x00",
    54: b"\x0f\x09",
    59: b"\x0f\x01\xd4",
    60: b"\x0f\x01\xcf",
    67: b"\x31\xc0\xf2\x0f\xae\xf0",
    68: b"\x31\xc0\x66\x0f\xae\xf0",
    70: b"\x0f\x01\xc0",
    73: b"\xf3\x0f\x38\xf8\x00",
    76: b"\x66\x0f\x01\xcf",
}
# By SVM exit code.
SVM = {
    0x27: b"\x0f\x21\xf8",
    0x37: b"\xb8\0\x04\0\0\x0f\x23\xf8",
    0x26: b"\x0f\x21\xf0",
    0x36: b"\x31\xc0\x0f\x23\xf0",
    0x6E: b"\x0f\x31",
    0x6F: b"\x31\xc9\x0f\x33",
    0x72: b"\x31\xc0\x0f\xa2",
    0x76: b"\x0f\x08",
    0x7B: b"\xba\xff\x03\0\0\xec",
    0x7C: b"\xb9\x1b\0\0\0\x0f\x32",
    0x81: b"\x0f\x01\xd9",
    0x87: b"\x0f\x01\xf9",
    0x89: b"\x0f\x09",
}
EXCEPTIONS = {"ud": (VECTOR_UD, 0), "gp": (VECTOR_GP, 0)}
CR0, CR4 = 0, 4


def run(vm: BareMachine, code: bytes) -> tuple[int, int] | None:
    """Run machine code; return vector and error of its exception, None if it has none."""
    vm.guest.write_bytes(CODE, code + RET + bytes(-len(code + RET) % 8))
    answer = vm.guest.run("call", CODE)
    return (answer.vector, answer.error) if isinstance(answer, Fault) else None


@pytest.mark.fault("F11")
async def test_each_instruction_of_a_strict_td(boot: Boot) -> None:
    async with boot(**options("tdx", "strict")) as vm:
        begin(vm)
        for row in tables("tdx")["instruction"]:
            code = VMX.get(row["first"])
            if code is None or "deviation" in row:
                continue
            has = row["when"] in FEATURES["tdx"]
            word = row["answer"] if has else row["otherwise"]
            found = run(vm, code)
            if word == "exception" or row["first"] == 10:
                assert found == (VECTOR_VE, row["first"]), row
            else:
                assert found == EXCEPTIONS[word], row
        assert run(vm, b"\x0f\x01\xd9") == (VECTOR_UD, 0)  # VMMCALL


@pytest.mark.parametrize("coco", ["sev-es", "sev-snp"])
async def test_each_exit_of_a_strict_guest(boot: Boot, coco: str) -> None:
    async with boot(**options(coco, "strict")) as vm:
        for code, instruction in SVM.items():
            rows = (r for r in tables("sev")["exit"] if r["first"] <= code <= r["last"])
            row = next(rows, None)
            word = row["snp" if coco == "sev-snp" else "es"] if row else "native"
            expected = (VECTOR_VC, code) if word == "exception" else None
            assert run(vm, instruction) == expected, hex(code)


@pytest.mark.fault("F15")
@pytest.mark.parametrize(
    ("coco", "mode", "vector"),
    [
        ("sev", None, None),
        ("sev-es", "lazy", None),
        ("sev-es", "strict", VECTOR_VC),
        ("sev-snp", "lazy", VECTOR_VC),
        ("sev-snp", "strict", VECTOR_VC),
    ],
)
async def test_vmmcall(boot: Boot, coco: str, mode: str | None, vector: int | None) -> None:
    async with boot(coco=coco, guest_options=(f"vc={mode}",) if mode else ()) as vm:
        answer = vm.guest.run("vmmcall", 99, 0, 0, 0, 0)
        if vector is None:
            assert answer == (2**64 - 1000,)
        else:
            assert isinstance(answer, Fault)
            assert (answer.vector, answer.error) == (vector, 0x81)


def flip(register: int, *, set_: int = 0, clear: int = 0) -> bytes:
    """Return code that changes bits of CR0 or CR4, and answers whether they stayed so in RAX."""
    modrm = 0xC0 | register << 3
    return b"".join(
        [
            bytes([0x0F, 0x20, modrm]),  # mov rax, crN
            b"\x48\xb9" + set_.to_bytes(8, "little") + b"\x48\x09\xc8",  # or rax, rcx
            b"\x48\xb9" + (~clear & 2**64 - 1).to_bytes(8, "little") + b"\x48\x21\xc8",  # and
            bytes([0x0F, 0x22, modrm]),  # mov crN, rax
        ]
    )


# Bits that the guest itself stands on, or that its CPU has not.
NOT_TRIED = {(CR0, 0, "set"), (CR0, 31, "clear"), (CR4, 5, "clear"), (CR4, 12, "set")}


def attempts(row: Row) -> list[tuple[str, int]]:
    register = {"cr0": CR0, "cr4": CR4}[row["reg"]]
    bits = {row["first"], row["last"]}
    return [
        (way, bit)
        for way in ("set", "clear")
        for bit in sorted(bits)
        if (register, bit, way) not in NOT_TRIED
    ]


@pytest.mark.fault("F13")
async def test_each_bit_of_the_control_registers(boot: Boot) -> None:
    async with boot(**options("tdx", "strict")) as vm:
        begin(vm)
        for row in tables("tdx")["control-bit"]:
            register = {"cr0": CR0, "cr4": CR4}[row["reg"]]
            for way, bit in attempts(row):
                word = row[way]
                if way == "set" and row["when"] not in FEATURES["tdx"]:
                    word = row["otherwise"]
                if way == "clear" and not row["initial"]:
                    continue  # clear already
                code = flip(
                    register, **({"set_": 1 << bit} if way == "set" else {"clear": 1 << bit})
                )
                found = run(vm, code)
                if word == "gp" or "deviation" in row:
                    assert found in ((VECTOR_GP, 0), None), (row, way, bit)
                    assert word != "gp" or found is not None, (row, way, bit)
                elif word == "exception":
                    assert found in ((VECTOR_VE, 28), (VECTOR_GP, 0)), (row, way, bit)
        assert run(vm, flip(CR0, clear=1 << 0)) == (VECTOR_GP, 0)  # PG without PE
        assert run(vm, flip(CR0, set_=1 << 30)) == (VECTOR_VE, 28)  # CD
        assert run(vm, flip(CR0, clear=1 << 5)) == (VECTOR_GP, 0)  # NE
        assert run(vm, flip(CR4, clear=1 << 6)) == (VECTOR_VE, 28)  # MCE
        assert run(vm, flip(CR4, set_=1 << 13)) == (VECTOR_VE, 28)  # VMXE


@pytest.mark.fault("F13")
@pytest.mark.parametrize("coco", ["generic", "sev-snp", "tdx"])
async def test_a_reserved_bit_of_cr4_is_a_fault_of_the_guest(boot: Boot, coco: str) -> None:
    async with boot(coco=coco) as vm:
        assert run(vm, flip(CR4, set_=1 << 63)) == (VECTOR_GP, 0)
        assert vm.guest.value("ping") == 0


@pytest.mark.fault("F14")
async def test_a_device_at_its_private_address_stops_a_strict_td(boot: Boot) -> None:
    hpet = 0xFED0_0000
    async with boot(coco="tdx") as vm:
        become_td(vm)
        assert vm.guest.value("read", hpet)
    async with boot(**options("tdx", "strict")) as vm:
        begin(vm)
        await wait_stop(vm, "read", hpet)
        await vm.events()


@pytest.mark.fault("F6")
async def test_pvalidate_through_a_shared_mapping(boot: Boot) -> None:
    shared_map = 0x100_0000_0000
    async with boot(**SNP) as vm:
        to_shared(vm.guest, page(0))
        for valid in (0, 1):
            fault = vm.guest.fault("pvalidate", shared_map + page(1), 0, valid)
            assert (fault.vector, fault.error, fault.cr2) == (14, 0x9, shared_map + page(1))
        assert isinstance(vm.guest, BareGuest)


@pytest.mark.fault("Q4")
def test_strict_mode_without_encrypted_state_is_refused(patched_qemu: Path) -> None:
    argv: list[str | Path] = [
        patched_qemu, "-nodefaults", "-display", "none", "-S", "-accel", "tcg", "-m", "64M",
        "-object", "sev-guest,id=cgs0,cbitpos=51,reduced-phys-bits=1,vc=strict",
        "-object", "memory-backend-restricted,id=ram0,size=64M,profile=sev,layout=split",
        "-machine", "q35,smm=off,memory-backend=ram0,confidential-guest-support=cgs0",
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "vc=strict needs an SEV-ES or SEV-SNP guest" in done.stderr
