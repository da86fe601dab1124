# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin in projects of its own, in a pytest of their own."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.plan import Plan
from tests.fakes.vms import run_folders


pytest_plugins = ("pytester",)
pytestmark = pytest.mark.usefixtures("state_home")
BOOT = (
    {"touch": [0, 10]},
    {"host_fault": 0x3000},
    {"console": "Kernel says: login: "},
    {"agent": "cvmlab hello 6.12\n"},
)
HEADER = """
import pytest
FAKE = {{"qemu": {qemu!r}, "memory": "64M", "stop_timeout_s": 20.0}}
"""


class Project:
    """A project of somebody who tests a guest; its QEMU is a fake."""

    def __init__(
        self, pytester: pytest.Pytester, folder: Path, boot: Sequence[dict[str, Any]] = BOOT
    ) -> None:
        self._pytester = pytester
        self._qemu = str(Plan(boot=tuple(boot)).install(folder / "fake"))

    def run(self, tests: str, *options: str) -> pytest.RunResult:
        self._pytester.makepyfile(HEADER.format(qemu=self._qemu) + tests)
        return self._pytester.runpytest_subprocess(
            "-p", "no:cacheprovider", "--strict-markers", *_plugin(), *options, timeout=100
        )


def _plugin() -> tuple[str, ...]:
    # An installed cvmlab is found by its entry point, and cannot be loaded again by name.
    from importlib.metadata import entry_points

    installed = any(point.name == "cvmlab" for point in entry_points(group="pytest11"))
    return () if installed else ("-p", "cvmlab.testing.pytest_plugin")


@pytest.fixture
def project(pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    # The run inside is not a worker of the one outside.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    return Project(pytester, tmp_path)


MATRIX = """
@pytest.mark.cvm(coco="generic", **FAKE)
class TestAll:
    @pytest.mark.cvm(cpus=[1, 2])
    def test_cpus(self, cvm, cvm_cell):
        vm = cvm()
        assert (vm.spec.coco, vm.spec.cpus) == ("generic", cvm_cell["cpus"])
        assert cvm(cpus=3).spec.cpus == 3

    def test_what_the_call_says_goes_first(self, cvm):
        assert cvm(memory="32M").spec.memory_bytes == 32 << 20

def test_without_a_mark(cvm):
    assert cvm(**FAKE).spec.coco == "generic"
"""


def test_lists_of_the_mark_make_a_matrix(project: Project) -> None:
    result = project.run(MATRIX, "-v")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines_random(
        [
            "*::test_cpus?generic-1cpus? PASSED*",
            "*::test_cpus?generic-2cpus? PASSED*",
            "*::test_what_the_call_says_goes_first?generic? PASSED*",
        ]
    )


SHARED = """
seen = []

@pytest.mark.cvm(cpus=[1, 2], **FAKE)
class TestShared:
    def test_one(self, cvm_session):
        seen.append(cvm_session())

    def test_two(self, cvm_session, cvm_cell):
        assert cvm_session() is seen[-1]
        assert [vm.spec.cpus for vm in seen] == list(range(1, cvm_cell["cpus"] + 1))
        assert [vm.outcome is None for vm in seen] == [False, True][-len(seen):]

def test_boots_another_for_other_words_and_for_one_that_ended(cvm_session):
    first = cvm_session(**FAKE)
    assert cvm_session(cpus=2, **FAKE) is not first
    first.stop()
    assert cvm_session(**FAKE) is not first
"""


def test_a_session_has_one_vm_for_each_cell(project: Project, state_home: Path) -> None:
    project.run(SHARED).assert_outcomes(passed=5)
    assert run_folders(state_home) == []


FAILING = """
@pytest.mark.cvm(**FAKE)
def test_good(cvm):
    cvm(name="innocent").wait_for("login:")

@pytest.mark.cvm(**FAKE)
def test_faults(cvm):
    vm = cvm(name="culprit")
    vm.wait_hello()
    vm.pages.assert_no_host_faults()

@pytest.mark.cvm(**FAKE)
def test_shared(cvm_session):
    vm = cvm_session(name="common")
    vm.pages.assert_shared("1M+8K")

def test_private(cvm):
    vm = cvm(**FAKE)
    vm.convert("1M+8K", "shared")
    vm.pages.assert_shared("1M+8K")
    vm.select(kind="convert", actor="monitor").assert_at_most(pages=2)
    vm.pages.assert_private("1M+16K")
"""


def test_a_failure_says_what_the_guest_did_and_where_its_folder_is(
    project: Project, state_home: Path
) -> None:
    result = project.run(FAILING, "--junit-xml=out.xml")
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines_random(
        [
            "E *HostFault: the host touched private memory: 1 fault",
            "E *read private 0x3000: deny*",
            "*cvmlab: hint*",
            "a guest must share a page before a device uses it",
            "*cvmlab: VM culprit*",
            "run folder: *culprit-*",
            "host fault: *read 0x3000 (private): deny*",
            "end of the console:",
            "E *2 of 2 pages of 0x100000+8K are not shared",
            "E *0x100000+8K is pending",
            "*cvmlab: VM common*",
            "E *4 of 4 pages of 0x100000+16K are not private",
        ]
    )
    kept = [folder.name.rpartition("-")[0] for folder in run_folders(state_home)]
    assert sorted(kept) == ["common", "culprit", "test0"]
    xml = (project._pytester.path / "out.xml").read_text()
    assert xml.count('name="cvmlab_run_folder"') == 3


def test_two_workers_do_not_meet(project: Project, state_home: Path) -> None:
    result = project.run(MATRIX + FAILING + SHARED, "-n2", "--dist", "loadscope")
    result.assert_outcomes(passed=10, failed=3)
    result.stdout.fnmatch_lines(["*cvmlab: VM culprit*", "run folder: *culprit-*"])
    assert len(run_folders(state_home)) == 3


LACKING = """
def test_qemu(cvm):
    cvm(memory="64M")
"""


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is built, and nothing may be fetched."""
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "cache"))
    monkeypatch.setenv("CVMLAB_OFFLINE", "1")
    for name in ("CVMLAB_QEMU", "CVMLAB_QEMU_SOURCE", "CVMLAB_REQUIRE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("bare_machine")
def test_what_is_not_there_is_skipped_with_its_reason(project: Project) -> None:
    result = project.run(LACKING, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*QEMU is not built yet: run `cvmlab build`"])


@pytest.mark.usefixtures("bare_machine")
@pytest.mark.parametrize("how", ["option", "variable"])
def test_what_is_required_fails_instead(
    project: Project, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "variable":
        monkeypatch.setenv("CVMLAB_REQUIRE", "1")
    result = project.run(LACKING, *(["--cvm-require"] if how == "option" else []))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*QEMU is not built yet*", "*required by --cvm-require*"])


@pytest.mark.parametrize(
    ("test", "complaint"),
    [
        (
            "@pytest.mark.cvm(cocoo='tdx')\ndef test_it(cvm): pass",
            "*the mark cvm: there is no 'cocoo'*did you mean coco?*",
        ),
        (
            "@pytest.mark.cvm(coco='tdx')\ndef test_it(): pass",
            "*the mark cvm has no effect here*use the fixture cvm or cvm_session*",
        ),
        ("@pytest.mark.cvm('tdx')\ndef test_it(cvm): pass", "*takes options by name*"),
        (
            "@pytest.mark.cvm(coco=[], **FAKE)\ndef test_it(cvm): pass",
            "*coco has no value to choose from*",
        ),
    ],
)
def test_a_mistaken_mark_is_an_error_and_never_a_skip(
    project: Project, test: str, complaint: str
) -> None:
    result = project.run(test)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        complaint.replace("*did", "\n*did").replace("*use", "\n*use").split("\n")
    )


def test_a_profile_there_is_not_fails_the_test(project: Project) -> None:
    result = project.run("def test_it(cvm): cvm(**{**FAKE, 'coco': 'tdxx'})")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ConfigError: coco: there is no 'tdxx'*"])


def test_a_budget_is_not_taken_and_then_forgotten(project: Project) -> None:
    result = project.run("def test_it(cvm): cvm(max_faults=('0',), **FAKE)")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*a test's VM has no option 'max_faults'*"])


UNAWARE = """
TD = dict(coco="tdx", **FAKE)

@pytest.mark.cvm(**TD)
def test_green_without_reason(cvm):
    vm = cvm()
    vm.wait_for("login:")
    assert vm.pages.phase.name == "USER"

@pytest.mark.cvm(allow_unaware=True, fail_on="none", **TD)
def test_that_means_it(cvm):
    cvm().wait_for("login:")

@pytest.mark.cvm(**FAKE)
def test_with_an_oops(cvm):
    cvm().wait_for("login:")
"""


@pytest.mark.fault("F3", "F17")
def test_a_test_whose_guest_was_unaware_or_in_trouble_fails(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    oops = {"console": "[    5.000000] Oops: 0002 [#1] SMP\n"}
    boot = ({"phase": 3}, {"phase": 4}, oops, {"console": "login: "})
    result = Project(pytester, tmp_path, boot).run(UNAWARE)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "VM test0: the guest's kernel never spoke TDX: *",
            "VM test0: the kernel reports trouble: Oops: 0002 *",
        ]
    )
