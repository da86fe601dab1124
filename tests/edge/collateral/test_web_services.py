# SPDX-License-Identifier: GPL-2.0-or-later
"""The services by HTTP, and as a command."""

import contextlib
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.collateral.scenarios import Scenario
from cvmlab.collateral.web_services import web_services
from cvmlab.pki.pki_folder import save, save_web_certificate
from tests.fakes.pkis import small_pki
from tests.verifiers import get


def test_a_port_in_use_is_said() -> None:
    with web_services(small_pki()) as address:
        port = int(address.rpartition(":")[2])
        with (
            pytest.raises(
                ConfigError, match=f"port {port} cannot be served: Address already in use"
            ),
            web_services(small_pki(), port=port),
        ):
            pass


def test_each_request_is_told() -> None:
    told: list[str] = []
    with web_services(small_pki(), told=told.append) as address:
        get(f"{address}/vcek/v1/Milan/crl")
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(f"{address}/what")
        caught.value.close()
    assert told == ["200 /vcek/v1/Milan/crl", "404 /what"]


def test_a_slow_service_ends_at_once() -> None:
    """A client that gave up does not keep it."""
    with (
        web_services(small_pki(), Scenario.SLOW, delay_s=300) as address,
        pytest.raises(TimeoutError),
    ):
        urllib.request.urlopen(f"{address}/vcek/v1/Milan/crl", timeout=0.2)


def by_https(url: str, trusted: Path | None) -> bytes:
    context = ssl.create_default_context(cafile=trusted)
    with urllib.request.urlopen(url, timeout=20, context=context) as page:
        content: bytes = page.read()
    return content


def test_https_is_for_those_who_trust_the_certificate(tmp_path: Path) -> None:
    trusted = save_web_certificate(small_pki(), tmp_path)
    with web_services(small_pki(), by_https=True) as address:
        assert address.startswith("https://")
        url = f"{address}/tdx/certification/v4/qe/identity"
        assert b"enclaveIdentity" in by_https(url, trusted)
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            by_https(url, None)


def test_a_client_that_does_not_shake_hands_stops_nobody(tmp_path: Path) -> None:
    trusted = save_web_certificate(small_pki(), tmp_path)
    with web_services(small_pki(), by_https=True) as address:
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)):
            assert by_https(f"{address}/vcek/v1/Milan/crl", trusted)


def test_a_client_that_does_not_trust_is_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    with (
        web_services(small_pki(), by_https=True, told=told.append) as address,
        pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        by_https(f"{address}/vcek/v1/Milan/crl", None)
    (line,) = told
    assert line.startswith("a connection failed: ")
    assert "\n" not in line
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("https", [False, True])
def test_a_request_in_drops_is_ended(https: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """Each byte comes in time, and the request never."""
    told: list[str] = []
    with web_services(small_pki(), by_https=https, deadline_s=1, told=told.append) as address:
        drops(int(address.rpartition(":")[2]), until_s=time.monotonic() + 30)
    assert "a connection took longer than 1 seconds" in told
    assert capfd.readouterr().err == ""


def test_what_is_no_request_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    with web_services(small_pki(), told=told.append) as address:
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(b"nonsense\r\n\r\n")
            assert b"Bad request syntax" in connection.recv(4096)
    assert told == ["code 400, message Bad request syntax ('nonsense')", "400 -"]
    assert capfd.readouterr().err == ""


def drops(port: int, *, until_s: float) -> None:
    """Send a byte now and then until the server ends the connection."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"\x16\x03\x01\x10\x00")  # a record of TLS with 4 KiB
        connection.settimeout(0.1)
        while time.monotonic() < until_s:
            try:
                connection.sendall(b"\x01")
                assert connection.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                pass
            return
    raise AssertionError("the connection was not ended")


@pytest.mark.parametrize("https", [False, True])
def test_the_end_does_not_wait_for_clients_that_say_nothing(https: bool, tmp_path: Path) -> None:
    trusted = save_web_certificate(small_pki(), tmp_path)
    with contextlib.ExitStack() as clients:
        with web_services(small_pki(), by_https=https, told=lambda _line: None) as address:
            port = int(address.rpartition(":")[2])
            for _ in range(3):
                clients.enter_context(socket.create_connection(("127.0.0.1", port)))
            url = f"{address}/vcek/v1/Milan/crl"
            by_https(url, trusted) if https else get(url)  # so those before it are accepted, too
            ends = time.monotonic()
        assert time.monotonic() - ends < 4


def test_a_certificate_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"web\.pem cannot be written: No such file"):
        save_web_certificate(small_pki(), tmp_path / "no")


@pytest.fixture
def serving(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    save(small_pki(), tmp_path / "pki")
    command = [sys.executable, "-m", "cvmlab", "attest", "serve", str(tmp_path / "pki")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*command, "--scenario", "expired"], text=True, **pipes) as process:  # type: ignore[call-overload]
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_stopped(
    number: signal.Signals, serving: "subprocess.Popen[str]"
) -> None:
    assert serving.stdout is not None
    content, _ = get(f"{serving.stdout.readline().strip()}/vcek/v1/Milan/cert_chain")
    assert content.decode().count("BEGIN CERTIFICATE") == 2
    serving.send_signal(number)
    _, told = serving.communicate(timeout=20)
    assert serving.returncode == 0
    assert "scenario expired: documents and lists are past their next update (emulated" in told
    assert "200 /vcek/v1/Milan/cert_chain" in told
