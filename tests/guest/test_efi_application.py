# SPDX-License-Identifier: GPL-2.0-or-later
"""``--kernel`` may be an EFI application, as kvm-unit-tests are, and ``--device`` ends its run."""

from pathlib import Path

import pytest

from tests.fakes.efi_app import efi_application
from tests.guest.program import cvmlab


pytestmark = [
    pytest.mark.guest,
    pytest.mark.fault("F18"),
    pytest.mark.usefixtures("state_home"),
]


@pytest.mark.parametrize("coco", ["off", "generic"])
def test_it_runs_under_ovmf(tmp_path: Path, coco: str) -> None:
    app = tmp_path / "hello.efi"
    app.write_bytes(efi_application("hello from EFI"))
    done = cvmlab(
        "boot", "--coco", coco, "--kernel", str(app), "--firmware", "ovmf", "--timeout", "60",
        "--device", "isa-debug-exit", "--device", "pc-testdev", "--expect", "hello from EFI",
    )  # fmt: skip
    assert done.code == 0, done.out + done.err


def test_seabios_is_refused(tmp_path: Path) -> None:
    app = tmp_path / "hello.efi"
    app.write_bytes(efi_application("hello from EFI"))
    done = cvmlab("boot", "--kernel", str(app))
    assert done.code == 85
    assert "is an EFI application, which SeaBIOS does not start" in done.err
    assert "--firmware ovmf" in done.err
