# SPDX-License-Identifier: GPL-2.0-or-later
"""What the doctor says, and that it changes nothing."""

import json
import os
from pathlib import Path

import pytest

from cvmlab.cli import doctor
from cvmlab.cli.doctor import CheckStatus, Finding
from tests.fakes.programs import Programs


PATCHED = """
case "$1" in
--version) echo "QEMU emulator version 10.0.13 (test)";;
-object) echo "  memory-backend-restricted";;
esac
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """A machine that lacks nothing, with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "cache"))
    for name in ("CVMLAB_QEMU", "CVMLAB_QEMU_SOURCE", "CVMLAB_ROM_DIRS"):
        monkeypatch.delenv(name, raising=False)
    made = Programs(tmp_path / "bin", monkeypatch)
    made.add("dpkg-query", 'shift 3; for name; do echo "$name installed"; done')
    return made


def examine(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, str]]]:
    status = doctor.main(as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is (status == 0)
    return status, {check.pop("name"): check for check in document["checks"]}


def test_a_machine_with_a_patched_qemu_passes(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CVMLAB_QEMU", os.fspath(programs.add("qemu", PATCHED)))
    _, checks = examine(capsys)
    assert checks["qemu"]["verdict"] == "PASS"
    for name in ("python", "environment", "apt packages", "memfd", "user"):
        assert checks[name]["verdict"] == "PASS", checks[name]


def test_it_says_how_a_build_is_optimized(
    programs: Programs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "built").mkdir()
    qemu = Programs(tmp_path / "built" / "bin", monkeypatch).add("qemu", PATCHED)
    monkeypatch.setenv("CVMLAB_QEMU", os.fspath(qemu))
    assert examine(capsys)[1]["qemu"]["detail"] == f"{qemu}"
    (tmp_path / "built" / "build.json").write_text('{"version": "10.0.13", "tuning": "lto"}')
    assert examine(capsys)[1]["qemu"]["detail"] == f"QEMU 10.0.13, lto: {qemu}"


def test_a_qemu_without_the_plugin_fails(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CVMLAB_QEMU", os.fspath(programs.add("qemu", "echo memory-backend-ram")))
    status, checks = examine(capsys)
    assert status == 85
    assert checks["qemu"]["verdict"] == "FAIL"
    assert "has no plugin" in checks["qemu"]["detail"]
    assert "cvmlab build" in checks["qemu"]["hint"]


def test_before_the_first_build_the_doctor_says_to_build(
    programs: Programs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, checks = examine(capsys)
    assert status == 85
    assert checks["qemu"] == {
        "verdict": "FAIL",
        "detail": "QEMU is not built yet",
        "hint": "run `cvmlab build`",
    }
    assert checks["firmware"]["verdict"] == checks["guest kernel"]["verdict"] == "SKIP"
    assert not (tmp_path / "cache").exists()


def test_missing_packages_fail_only_while_qemu_is_not_built(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs.add("dpkg-query", "exit 1")
    _, checks = examine(capsys)
    assert checks["apt packages"]["verdict"] == "FAIL"
    assert "sudo apt-get install" in checks["apt packages"]["hint"]
    monkeypatch.setenv("CVMLAB_QEMU", os.fspath(programs.add("qemu", PATCHED)))
    _, checks = examine(capsys)
    assert checks["apt packages"]["verdict"] == "SKIP"


@pytest.mark.parametrize("variable", ["CVMLAB_ROM_DIRS", "CVMLAB_QEMU_SOURCE"])
def test_a_setting_that_leads_nowhere_fails(
    programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
) -> None:
    monkeypatch.setenv(variable, "/no/such/place")
    _, checks = examine(capsys)
    failed = checks["firmware" if variable == "CVMLAB_ROM_DIRS" else "qemu source"]
    assert failed["verdict"] == "FAIL"
    assert "/no/such/place" in failed["detail"]


def test_the_report_is_a_line_for_each_finding_and_one_for_each_hint() -> None:
    lines = doctor.report(
        [
            ("python", Finding(CheckStatus.PASS, "3.11.2")),
            ("qemu", Finding(CheckStatus.FAIL, "not built", "run `cvmlab build`")),
        ]
    )
    assert lines == [
        "PASS  python         3.11.2",
        "FAIL  qemu           not built",
        "                     run `cvmlab build`",
    ]


def test_people_get_lines(programs: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    doctor.main(as_json=False)
    lines = capsys.readouterr().out.splitlines()
    names = {line[6:20].strip() for line in lines if line[:4] in set(CheckStatus)}
    assert names == {check.name for check in doctor.CHECKS}
