# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU under ASan and UBSan, and the bare-metal guest that attacks it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


pytest.register_assert_rewrite("tests.qemu.bare_machine")

from cvmlab.qemu.build import install  # noqa: E402 - the line above comes first
from cvmlab.qemu.recipe import Flavour  # noqa: E402
from tests.qemu.bare import build  # noqa: E402
from tests.sanitize.sanitizers import environment  # noqa: E402


Tell = Callable[[str], None]
_TOLD = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the list of what the attacks counted."""
    config.stash[_TOLD] = []


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what the attacks counted."""
    if lines := config.stash[_TOLD]:
        terminalreporter.section("attacks")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Return a function that puts a line at the end of pytest's output."""
    return request.config.stash[_TOLD].append


@pytest.fixture(scope="session", autouse=True)
def sanitizers_are_told() -> Iterator[None]:
    """Have each QEMU look for leaks, and know what is known."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def sanitized_qemu() -> Path:
    """Return the QEMU that reports memory errors and undefined behaviour; built the first time."""
    return install(Flavour.SANITIZED) / "bin" / Flavour.SANITIZED.programs()[0]


@pytest.fixture(scope="session")
def planted_qemu() -> Path:
    """Return the same with a memory error in it."""
    return install(Flavour.PLANTED) / "bin" / Flavour.PLANTED.programs()[0]


@pytest.fixture(scope="session")
def bare_elf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bare-metal guest."""
    return build(tmp_path_factory.mktemp("bare"))
