# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin: boot confidential VMs in tests.

    @pytest.mark.cvm(coco=["generic", "tdx"], image="debian", exec="true")
    def test_the_host_is_kept_out(cvm):
        vm = cvm()
        assert vm.wait_exit().guest_status == 0
        vm.pages.assert_no_host_faults()

VMs of ``cvm`` end with their test, those of ``cvm_session`` with the last test of their cell.
``cvm_forked`` boots a guest once and gives each test a copy of it, which ends with the test.  The
run folders of a failed test are kept and named in its report.
"""

import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest


if TYPE_CHECKING:
    from cvmlab.testing.vms import BootVm, ForkVm


# The rest of cvmlab is imported late: pytest loads this module in every project that has cvmlab.

_OWN = pytest.StashKey["BootVm"]()
_SHARED = pytest.StashKey["BootVm"]()
_CELLS = pytest.StashKey[dict[str, Mapping[str, object]]]()
_REQUIRE = "--cvm-require"
_WAITING = pytest.StashKey[dict[Any, str | None]]()
_FIXTURES = ("cvm", "cvm_session", "cvm_forked")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("cvmlab").addoption(
        _REQUIRE,
        action="store_true",
        help="fail tests that lack QEMU or a guest image, instead of skipping them "
        "(as CVMLAB_REQUIRE=1 does)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "cvm(coco=, image=, cpus=, memory=, firmware=, exec=, ...): options of the VMs of the "
        "fixtures cvm and cvm_session; a list makes a test for each value",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test for each cell of the mark."""
    marks = list(metafunc.definition.iter_markers("cvm"))
    if not marks:
        return
    from cvmlab.base.errors import ConfigError

    try:
        params = _params(metafunc, marks)
    except ConfigError as error:
        name = metafunc.definition.nodeid
        pytest.fail(f"{name}: {error.message}\nhint: {error.hint}", pytrace=False)
    metafunc.parametrize("cvm_cell", params, indirect=True, scope="session")


def _params(metafunc: pytest.Metafunc, marks: list[pytest.Mark]) -> list[Any]:
    from cvmlab.base.errors import ConfigError
    from cvmlab.testing.mark_options import cells, merged
    from cvmlab.testing.vms import KNOWN_OPTIONS

    if not any(name in metafunc.fixturenames for name in _FIXTURES):
        raise ConfigError(
            "the mark cvm has no effect here", hint="use the fixture cvm or cvm_session"
        )
    if any(mark.args for mark in marks):
        raise ConfigError("the mark cvm takes options by name", hint='coco="tdx"')
    found = cells(merged(mark.kwargs for mark in marks), KNOWN_OPTIONS)
    # pytest compares parameters by identity, not by value.
    same = metafunc.config.stash.setdefault(_CELLS, {})
    return [
        pytest.param(same.setdefault(repr(cell.options), cell.options), id=cell.id)
        for cell in found
    ]


@pytest.fixture(scope="session")
def cvm_cell(request: pytest.FixtureRequest) -> Mapping[str, object]:
    """Options of the mark ``cvm`` for this test; empty without one."""
    options: Mapping[str, object] = getattr(request, "param", {})
    return options


@pytest.fixture
def cvm(request: pytest.FixtureRequest, cvm_cell: Mapping[str, object]) -> "Iterator[BootVm]":
    """Return a function that boots a VM and returns it as a SyncVm; the VM ends with the test."""
    from cvmlab.testing.vms import BootVm

    with ExitStack() as stack:
        boot = BootVm(stack, cvm_cell, prefix=f"{_worker()}test")
        request.node.stash[_OWN] = boot
        yield boot


@pytest.fixture(scope="session")
def cvm_session(
    request: pytest.FixtureRequest, cvm_cell: Mapping[str, object]
) -> "Iterator[BootVm]":
    """Return a function that boots a VM, or returns the running one, for the tests of a cell."""
    from cvmlab.testing.vms import BootVm

    with ExitStack() as stack:
        boot = BootVm(stack, cvm_cell, prefix=f"{_worker()}session", reuse=True)
        request.node.stash[_SHARED] = boot
        yield boot


@pytest.fixture(scope="session")
def _cvm_parents(cvm_cell: Mapping[str, object]) -> "Iterator[BootVm]":
    """Boot the guests that cvm_forked copies: nobody else has them."""
    from cvmlab.testing.vms import BootVm

    with ExitStack() as stack:
        yield BootVm(stack, cvm_cell, prefix=f"{_worker()}parent", reuse=True)


@pytest.fixture
def cvm_forked(request: pytest.FixtureRequest, _cvm_parents: "BootVm") -> "Iterator[ForkVm]":
    """Return a function that returns a running copy of the cell's guest, which is booted once."""
    from cvmlab.testing.vms import BootVm, ForkVm

    waiting = request.session.stash.setdefault(_WAITING, {})
    with ExitStack() as stack:
        own = BootVm(stack, {}, prefix=f"{_worker()}fork")
        request.node.stash[_OWN] = own
        yield ForkVm(_cvm_parents, own, waiting)


def _worker() -> str:
    """Return the name of the pytest-xdist worker, so that VM names of two workers differ."""
    name = os.environ.get("PYTEST_XDIST_WORKER")
    return f"{name}-" if name else ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep and name the run folders of a failed test; skip a test that cannot run here."""
    report = yield
    if call.excinfo is not None and _is_lacking(call.excinfo.value):
        _skip(item, report, str(call.excinfo.value))
    if call.when == "call" and report.passed:
        _judge(item, report)
    if report.failed:
        hint = getattr(call.excinfo.value, "hint", None) if call.excinfo else None
        if hint:
            report.sections.append(("cvmlab: hint", str(hint)))
        for boot in _boots(item):
            report.sections.extend(boot.explain())
            item.user_properties.extend(("cvmlab_run_folder", str(vm.run.path)) for vm in boot.vms)
    return report


def _judge(item: pytest.Item, report: pytest.TestReport) -> None:
    """Fail a test that passed with a guest whose kernel was unaware or in trouble."""
    wrongs = [told for boot in _boots(item) for told in boot.wrongs()]
    if wrongs:
        report.outcome = "failed"
        report.longrepr = "\n".join(
            [*wrongs, '(the mark cvm takes allow_unaware=True, and fail_on="none")']
        )


def _is_lacking(error: BaseException) -> bool:
    return (
        type(error).__module__ == "cvmlab.testing.vms" and type(error).__name__ == "NotThereError"
    )


def _skip(item: pytest.Item, report: pytest.TestReport, reason: str) -> None:
    """Skip a test that cannot run, or fail it if it is required."""
    if item.config.getoption(_REQUIRE) or os.environ.get("CVMLAB_REQUIRE") == "1":
        report.longrepr = f"{reason}\n(required by {_REQUIRE} or CVMLAB_REQUIRE=1)"
        return
    path, line, _ = item.location
    report.outcome = "skipped"
    report.longrepr = (path, (line or 0) + 1, f"Skipped: {reason}")


def _boots(item: pytest.Item) -> "list[BootVm]":
    own, shared = item.stash.get(_OWN, None), item.session.stash.get(_SHARED, None)
    uses_shared = "cvm_session" in getattr(item, "fixturenames", ())
    return [boot for boot in (own, shared if uses_shared else None) if boot is not None]
