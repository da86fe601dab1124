# SPDX-License-Identifier: GPL-2.0-or-later
"""The bare guest walks the GHCB tables: each row is obeyed, or is a deviation of docs/deviations.md."""

import pytest

from tests.guest_tables import Row, tables
from tests.qemu.bare_machine import page
from tests.qemu.conftest import Boot
from tests.qemu.snp import INVALID_EVENT, MALFORMED, MISSING_INPUT, SEV_STATUS, Ghcb, msr, to_shared


pytestmark = pytest.mark.qemu

LEVELS = {"sev": 0, "sev-es": 1, "sev-snp": 2}
AP_RESET_HOLD, PSC = 0x6, 0x14  # do not return at once, or need a page
UNLISTED = (0x1, 0x400, 0x80000006, 0x80000014, 0x80000016, 0x80000019, 0xFFFFFFFF, 1 << 32)


def is_there(row: Row, coco: str) -> bool:
    return coco == "sev-snp" or row["level"] == "es"


@pytest.mark.parametrize("coco", ["sev-es", "sev-snp"])
async def test_each_request_of_the_msr_protocol(boot: Boot, coco: str) -> None:
    async with boot(coco=coco) as vm:
        for row in tables("sev")["ghcb-request"]:
            if row["answer"] == "run" and is_there(row, coco) and row["request"] != AP_RESET_HOLD:
                argument = page(0) | 1 << 52 if row["request"] == PSC else 0
                answer = msr(vm.guest, argument | row["request"])
                assert answer & 0xFFF == row["response"], row


@pytest.mark.parametrize("coco", ["sev-es", "sev-snp"])
async def test_each_exit_that_lacks_its_fields(boot: Boot, coco: str) -> None:
    """A field that is not valid, or the wrong level, is malformed for want of input."""
    async with boot(coco=coco) as vm:
        ghcb = Ghcb(vm.guest)
        for row in tables("sev")["ghcb-exit"]:
            if "deviation" in row:
                continue
            for code in {row["first"], row["last"]}:
                lacks = not is_there(row, coco) or set(row["needs"]) - {"cpl"}
                if row["answer"] == "run" and lacks:
                    assert ghcb.exit(code, 0, 8).status == (MALFORMED, MISSING_INPUT), row
        for code in UNLISTED:
            assert ghcb.exit(code).status == (MALFORMED, INVALID_EVENT), hex(code)


@pytest.mark.parametrize("coco", LEVELS)
async def test_each_bit_of_sev_status(boot: Boot, coco: str) -> None:
    async with boot(coco=coco) as vm:
        to_shared(vm.guest, page(0))
        status = vm.guest.value("rdmsr", SEV_STATUS)
        column = coco.removeprefix("sev-") if coco != "sev" else "sev"
        for row in tables("sev")["status-bit"]:
            # SEV_FEATURES of the VMSA are those of a guest without options: none.
            assert status >> row["bit"] & 1 == (row[column] == "one"), row
