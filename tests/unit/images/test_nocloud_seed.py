# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest with its own disk is told: user-data and the seed that carries it."""

import base64
import email
import io
import re
import subprocess
from pathlib import Path

import pytest
from pycdlib import PyCdlib

from cvmlab.base.errors import ConfigError
from cvmlab.images import initramfs, nocloud_seed


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "cvmlab" / "seed"


def _carried(script: bytes) -> dict[str, bytes]:
    found = re.findall(rb"base64 -d >/run/cvmlab/(\w+) <<end\n(.*?)end\n", script, re.DOTALL)
    return {name.decode(): base64.b64decode(text) for name, text in found}


@pytest.mark.parametrize("command", ["exit 3", "echo 'end\nend'; cat <<end\nx\nend", "é\n\t\\"])
def test_the_script_carries_agent_and_command_whatever_is_in_it(command: str) -> None:
    script = nocloud_seed.script(command, power_off=True)
    assert _carried(script) == {
        "agent": initramfs.agent(),
        "exec": initramfs.exec_script(command),
    }
    assert subprocess.run(["sh", "-n"], input=script, check=False, timeout=10).returncode == 0


def test_the_machine_goes_off_only_where_that_is_wanted() -> None:
    assert b"poweroff" in nocloud_seed.script("true", power_off=True)
    assert b"poweroff" not in nocloud_seed.script(None, power_off=False)
    assert "exec" not in _carried(nocloud_seed.script(None, power_off=False))


def test_a_command_that_is_empty_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty"):
        nocloud_seed.script(" ", power_off=True)


def test_one_of_both_is_taken_as_it_is() -> None:
    assert nocloud_seed.user_data(b"#!/bin/sh\n", None) == b"#!/bin/sh\n"
    assert nocloud_seed.user_data(None, b"#cloud-config\n") == b"#cloud-config\n"


def test_both_are_parts_and_ours_has_the_last_name() -> None:
    ours, users = b"#!/bin/sh\ntrue\n", b"#cloud-config\nhostname: \xc3\xa9\n"
    message = email.message_from_bytes(nocloud_seed.user_data(ours, users))
    parts = [part for part in message.walk() if not part.is_multipart()]
    assert [part.get_payload(decode=True) for part in parts] == [users, ours]
    # cloud-init looks into text/plain for what it is, and runs scripts in order of their names.
    assert [part.get_content_type() for part in parts] == ["text/plain", "text/x-shellscript"]
    names = [part.get_filename() or "" for part in parts]
    assert names == sorted(names)
    assert names[-1] > "runcmd"


def test_a_seed_is_what_nocloud_looks_for() -> None:
    iso = PyCdlib()
    iso.open(str(nocloud_seed.image(b"#!/bin/sh\n")))
    assert iso.pvd.volume_identifier.strip() == b"cidata"
    found = {}
    for name in ("user-data", "meta-data"):
        contents = io.BytesIO()
        iso.get_file_from_iso_fp(contents, rr_path=f"/{name}")
        found[name] = contents.getvalue()
    iso.close()
    assert found["user-data"] == b"#!/bin/sh\n"
    assert found["meta-data"].startswith(b"instance-id: cvmlab-")


def test_what_is_told_names_the_seed_and_the_instance(cache: Path) -> None:
    first, again, other = (
        nocloud_seed.image(b"a"),
        nocloud_seed.image(b"a"),
        nocloud_seed.image(b"b"),
    )
    assert first == again != other
    # cloud-init runs a script once for an instance.
    instances = {re.search(rb"instance-id: [\w-]+", path.read_bytes()) for path in cache.iterdir()}
    assert len(instances) == 2
