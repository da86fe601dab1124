# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of QEMU versions, and the places that name them in words."""

import re
from configparser import ConfigParser
from pathlib import Path

import pytest

from cvmlab.base.environment import VARIABLES
from cvmlab.machine.option_rows import BY_NAME
from cvmlab.qemu.versions import DEFAULT_VERSION, VERSION_VARIABLE, VERSIONS, asked_version


ROOT = Path(__file__).resolve().parents[3]
NAMES = [version.name for version in VERSIONS]


def test_a_pinned_file_has_a_sha256() -> None:
    pinned = [file for version in VERSIONS if version.pinned for file in version.pinned.files]
    assert pinned
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in pinned)


def test_what_is_pinned_is_of_the_version() -> None:
    names = {row.prefix: row.pinned.name for row in VERSIONS if row.pinned}
    assert all(name.startswith(f"qemu_{prefix}") for prefix, name in names.items())


def test_help_and_environment_name_every_version() -> None:
    option = BY_NAME["qemu_version"]
    (variable,) = (row for row in VARIABLES if VERSION_VARIABLE in row.names)
    for text in (option.help, variable.meaning):
        assert all(name in text for name in NAMES)
    assert f"(default: {DEFAULT_VERSION.name})" in option.help


def test_every_other_version_has_a_test_environment() -> None:
    tox = ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    sections = [tox[name].get("set_env", "") for name in tox.sections()]
    for version in VERSIONS[1:]:
        assert any(f"{VERSION_VARIABLE} = {version.name}" in text for text in sections)


def test_none_is_asked_for_by_an_empty_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VERSION_VARIABLE, "")
    assert asked_version(None) is None
    assert asked_version("10.0") is DEFAULT_VERSION
