# SPDX-License-Identifier: GPL-2.0-or-later
"""Missing Debian packages: installed where that is possible, else named in one line."""

import os
from pathlib import Path

import pytest

from cvmlab.base.errors import BuildError, ConfigError
from cvmlab.base.progress import Style
from cvmlab.debian import apt
from cvmlab.debian.apt import Need
from tests.fakes.programs import Programs


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """A machine whose dpkg knows all but what is named in the file `lacks`."""
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "cache"))
    monkeypatch.delenv("CVMLAB_NO_INSTALL", raising=False)
    made = Programs(tmp_path / "bin", monkeypatch)
    lacks = made.folder / "lacks"
    lacks.write_text("ccache\nflex\n")
    made.add(
        "dpkg-query",
        f'shift 3; for name; do grep -qx "$name" "{lacks}" || echo "$name installed"; done; exit 1',
    )
    # Whoever runs the tests: root calls apt-get itself, others through this sudo.
    made.add("sudo", 'shift; exec "$@"')
    made.add("apt-get", f': >"{lacks}"')
    return made


def test_only_what_is_needed_and_missing_is_named(programs: Programs) -> None:
    assert [package.name for package in apt.missing([Need.BUILD])] == ["ccache", "flex"]
    assert apt.missing([Need.TEST]) == ()


def test_a_package_that_was_removed_but_not_purged_is_missing(programs: Programs) -> None:
    programs.add("dpkg-query", 'shift 3; for name; do echo "$name config-files"; done')
    assert "git" in [package.name for package in apt.missing([Need.TEST])]


def test_missing_packages_are_installed(programs: Programs) -> None:
    apt.ensure([Need.BUILD], style=Style.NONE)
    (call,) = programs.calls("apt-get")
    assert call.endswith("install -y --no-install-recommends ccache flex")
    assert apt.missing([Need.BUILD]) == ()


def test_nothing_is_called_when_nothing_is_missing(programs: Programs) -> None:
    apt.ensure([Need.TEST], style=Style.NONE)
    assert programs.calls("apt-get") == []


def test_lists_are_updated_when_the_install_fails(programs: Programs) -> None:
    updated = programs.folder / "updated"
    programs.add(
        "apt-get", f'case "$*" in *update) touch "{updated}";; *) test -e "{updated}"; esac'
    )
    apt.ensure([Need.BUILD], style=Style.NONE)
    assert [call.split()[-1] for call in programs.calls("apt-get")] == ["flex", "update", "flex"]


def test_an_install_that_fails_twice_is_an_error(programs: Programs) -> None:
    programs.add("apt-get", "echo 'E: Unable to locate package flex'; exit 100")
    with pytest.raises(BuildError, match=r"apt-get update failed \(exit status 100\)"):
        apt.ensure([Need.BUILD], style=Style.NONE)


def test_without_leave_to_install_one_line_names_them(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CVMLAB_NO_INSTALL", "1")
    with pytest.raises(ConfigError) as caught:
        apt.ensure([Need.BUILD], style=Style.NONE)
    assert caught.value.message == "Debian packages are missing: ccache flex"
    assert caught.value.hint == "run: sudo apt-get install --no-install-recommends ccache flex"
    assert caught.value.exit_code == 85
    assert programs.calls("apt-get") == []


def test_sudo_is_used_only_if_it_asks_for_no_password(programs: Programs) -> None:
    assert apt._privilege(0) == ()
    assert apt._privilege(1000) == ("sudo", "-n")
    programs.add("sudo", "exit 1")
    assert apt._privilege(1000) is None


def test_packages_are_listed_once_and_say_what_they_are_for() -> None:
    names = [package.name for package in apt.PACKAGES]
    assert len(set(names)) == len(names)
    assert all(package.purpose for package in apt.PACKAGES)
