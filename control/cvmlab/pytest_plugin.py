# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin: boot confidential VMs in tests.

    def test_the_guest_boots_without_sharing(cvm):
        vm = cvm(coco="generic", kernel="vmlinuz")
        vm.wait_for("login:")
        assert vm.pages.counts().shared == 0
        vm.pages.assert_no_host_faults()

VMs end with their test.  The run folders of a test that failed are kept, and named in its report.
"""

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from cvmlab.process import log_tail


if TYPE_CHECKING:
    from cvmlab.sync import SyncVm


_LAST_LINES = 10


class BootVm(Protocol):
    """The ``cvm`` fixture: boot a VM that ends with the test.

    Without *image*, options are those of SyncVm; with one of `cvmlab images`, those of
    `cvmlab boot`, such as ``exec="uname -r"``.
    """

    def __call__(
        self, coco: str = "generic", image: str | None = None, **options: Any
    ) -> "SyncVm": ...


_VMS = pytest.StashKey[list["SyncVm"]]()


@pytest.fixture
def cvm(request: pytest.FixtureRequest) -> Iterator[BootVm]:
    """Give a function that boots a VM and returns it as a SyncVm."""
    booted: list[SyncVm] = request.node.stash.setdefault(_VMS, [])
    with ExitStack() as stack:

        def boot(coco: str = "generic", image: str | None = None, **options: Any) -> "SyncVm":
            options.setdefault("name", f"test{len(booted)}")
            vm = _made(coco, image, options)
            booted.append(vm)
            return stack.enter_context(vm)

        yield boot


def _made(coco: str, image: str | None, options: Any) -> "SyncVm":
    # Here and not above: pytest loads this plugin in every project that has cvmlab installed.
    from cvmlab.sync import SyncVm

    if image is None:
        return SyncVm(coco=coco, **options)
    from cvmlab.bootplan import plan
    from cvmlab.bootrequest import Request

    planned = plan(Request(coco=coco, image=image, **options))
    return SyncVm(planned.spec, setting=replace(planned.setting, keep=planned.keep))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Name the run folders of a failed test, and keep them."""
    report = yield
    if report.failed:
        for vm in item.stash.get(_VMS, []):
            if vm.started:
                vm.keep_run()
                report.sections.append((f"cvmlab: VM {vm.name}", _described(vm)))
    return report


def _described(vm: "SyncVm") -> str:
    lines = log_tail(vm.run.console_log, _LAST_LINES)
    return "\n".join([f"run folder: {vm.run.path}", "end of the console:", *lines])
