# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the tests that run the patched QEMU."""

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest


pytest.register_assert_rewrite("tests.qemu.bare_machine")

from cvmlab.base.errors import NoSourceError  # noqa: E402
from cvmlab.machine.spec import BootSpec  # noqa: E402
from cvmlab.qemu.build import qemu_binary, rom_dirs  # noqa: E402 - the line above comes first
from cvmlab.replays.recorder import Execution  # noqa: E402
from cvmlab.vm.vm import Vm  # noqa: E402
from tests.qemu.bare import build  # noqa: E402
from tests.qemu.bare_machine import EDU_DEVICE, MEMORY_BYTES, BareMachine  # noqa: E402


CHURN_AREA = 0x2000000
CHURN_PAGES = 64
MakeVm = Callable[..., Vm]
Boot = Callable[..., AbstractAsyncContextManager[BareMachine]]


@pytest.fixture(scope="session", autouse=True)
def patched_qemu() -> Path:
    """Return the QEMU with the plugin; built the first time."""
    try:
        return qemu_binary()
    except NoSourceError as error:
        pytest.skip(error.message)


@pytest.fixture(scope="session", autouse=True)
def locks_are_checked() -> Iterator[None]:
    """Have every QEMU check the order in which it takes its locks (plugin/qemu/lock.h)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CVMLAB_LOCK_ORDER", "1")
        yield


@pytest.fixture(autouse=True)
def accounts_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every VM end with the check that journal, table, counters and storage agree."""
    monkeypatch.setenv("CVMLAB_CHECK_ACCOUNTS", "1")


@pytest.fixture(scope="session")
def bare_elf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bare-metal guest."""
    return build(tmp_path_factory.mktemp("bare"))


@pytest.fixture
def boot(patched_qemu: Path, bare_elf: Path, tmp_path: Path) -> Boot:
    """Return a function that boots the bare-metal guest: ``async with boot(coco="generic")``."""

    def start(
        *, cont: bool = True, execution: Execution | None = None, **options: Any
    ) -> AbstractAsyncContextManager[BareMachine]:
        settings = {
            "memory_bytes": MEMORY_BYTES,
            "allow_reboot": True,
            "devices": (EDU_DEVICE,),
        }
        spec = BootSpec(
            **{**settings, "kernel": bare_elf, "rom_dirs": tuple(rom_dirs()), **options}
        )
        return BareMachine.start(patched_qemu, spec, tmp_path, cont=cont, execution=execution)

    return start


@pytest.fixture
def churning(patched_qemu: Path, bare_elf: Path) -> MakeVm:
    """Return a maker of VMs whose guest writes and verifies memory until a key is pressed."""

    def make(**more: object) -> Vm:
        options = {
            "qemu": patched_qemu,
            "kernel": bare_elf,
            "memory": "128M",
            "rom_dirs": rom_dirs(),
            "append": f"-- churn {CHURN_AREA:x} {CHURN_PAGES:x};--",
        }
        return Vm(**(options | more))  # type: ignore[arg-type]

    return make
