# SPDX-License-Identifier: GPL-2.0-or-later
"""What is published of a journal, and the options by which it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from cvmlab.base.errors import ConfigError, PluginError
from cvmlab.cli import main
from cvmlab.cli.publish import broker_of
from cvmlab.memory.records import Kind
from cvmlab.memory.table import PageCounts
from cvmlab.publish.mqtt import parse_address
from cvmlab.publish.telemetry import (
    BATCH_RECORDS,
    devices_in,
    pages_message,
    promised,
    state_message,
    summed_up,
)
from cvmlab.publish.vm_feed import Feed
from tests.fakes import journals as make
from tests.fakes.watched import FakeWatched


def test_every_fault_is_promised_once_in_batches() -> None:
    journal = make.large(50_000)
    messages = list(promised(journal, {3: "disk0"}))
    assert all(message.promised and not message.retained for message in messages)
    batches = [json.loads(one.payload)["events"] for one in messages if one.topic == "event/fault"]
    assert max(map(len, batches)) == BATCH_RECORDS
    events = [event for batch in batches for event in batch]
    assert [one["seq"] for one in events] == journal["seq"][
        journal["kind"] == Kind.HOST_FAULT
    ].tolist()
    assert {one["device"] for one in events} == {"disk0"}
    assert max(len(message.payload) for message in messages) < 100_000


def test_the_rest_is_summed_up() -> None:
    message = summed_up(make.small())
    values = json.loads(message.payload)
    assert not message.promised
    assert (values["accepted"], values["host_faults"], values["last"]) == (250, 2, 259)


def test_states_and_pages_are_retained() -> None:
    state = state_message("ended", outcome="ok")
    assert (state.retained, state.promised) == (True, True)
    assert json.loads(state.payload) == {"state": "ended", "emulated": True, "outcome": "ok"}
    pages = pages_message(PageCounts(pending=1, shared=2), {"accepted": 3})
    assert json.loads(pages.payload) == {
        "pages": {"pending": 1, "private": 0, "shared": 2, "poisoned": 0},
        "counters": {"accepted": 3},
    }


def test_devices_are_those_of_faults() -> None:
    assert devices_in(make.small()) == {3, 4}


async def test_a_feed_reads_on_from_where_it_was(tmp_path: Path) -> None:
    vm = FakeWatched(tmp_path)
    journal = make.small()
    with Feed(vm) as feed:
        assert len(feed.read()) == 0
        vm.write(journal[:100])
        feed.position += len(feed.read())
        with (tmp_path / "events.bin").open("ab") as file:
            file.write(b"torn")
        assert (feed.position, feed.waiting, len(feed.read())) == (100, 0, 0)
        assert await feed.devices({3}) == {3: "#3"}  # the VM is gone: PluginError
    with pytest.raises(PluginError):
        await vm.query()


async def test_a_feed_outlives_the_run_folder(tmp_path: Path) -> None:
    vm = FakeWatched(tmp_path)
    vm.write(make.small())
    with Feed(vm) as feed:
        (tmp_path / "events.bin").unlink()
        assert len(feed.read()) == 259


@pytest.mark.parametrize(
    ("text", "tls", "address"),
    [
        ("broker", False, ("broker", 1883)),
        ("broker", True, ("broker", 8883)),
        ("10.0.0.1:99", False, ("10.0.0.1", 99)),
        ("::1", False, ("::1", 1883)),
        ("[::1]", False, ("::1", 1883)),
        ("[::1]:77", False, ("::1", 77)),
    ],
)
def test_addresses(text: str, tls: bool, address: tuple[str, int]) -> None:
    assert parse_address(text, tls=tls) == address


@pytest.mark.parametrize("text", ["", ":1883", "broker:", "broker:x", "broker:0", "broker:65536"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a broker address"):
        parse_address(text, tls=False)


def test_the_password_is_of_a_file_or_the_environment_and_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text("sword fish\nsecond line\n")
    given: dict[str, Any] = dict.fromkeys(("mqtt_password_file", "mqtt_tls", "mqtt_ca"))
    given |= {"mqtt": "h", "mqtt_user": "lab", "mqtt_commands": False}
    made = broker_of({**given, "mqtt_password_file": str(file), "mqtt_commands": True})
    assert made is not None
    assert made.password == "sword fish"
    assert "sword" not in repr(made)
    monkeypatch.setenv("CVMLAB_MQTT_PASSWORD", "other")
    made = broker_of(given)
    assert made is not None
    assert made.password == "other"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("boot", "--mqtt-user", "x"), "--mqtt-user needs --mqtt"),
        (("boot", "--mqtt", "h", "--mqtt-commands"), "commands need a broker with a user name"),
        (("boot", "--mqtt", "h", "--mqtt-ca", "/none"), "--mqtt-ca: there is no file /none"),
        (("serve",), "nothing to serve"),
        (("serve", "--mqtt", "h", "--mqtt-password-file", "/none"), "--mqtt-password-file: /none:"),
        (("serve", "--mqtt", "127.0.0.1:9"), "cannot log in to the MQTT broker at 127.0.0.1:9"),
    ],
)
def test_mistakes_are_said(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], state_home: Path
) -> None:
    assert main(words) == 85
    assert capsys.readouterr().err.startswith(f"cvmlab: {message}")
