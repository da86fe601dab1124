# SPDX-License-Identifier: GPL-2.0-or-later
"""The services on a port of this machine, by HTTP or HTTPS."""

import asyncio
import ssl
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from typing_extensions import override

from cvmlab.base.errors import ConfigError
from cvmlab.collateral import kds, pccs
from cvmlab.collateral.scenarios import STATUSES, Scenario, issue_of
from cvmlab.collateral.tcb_documents import Technology
from cvmlab.collateral.web_answers import WebAnswer, WebRequest, refusal
from cvmlab.pki.authorities import Pki
from cvmlab.pki.pki_folder import key_text, load
from cvmlab.pki.web_identity import HOST, web_identity


_TIMEOUT_S: Final = 5


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # its end waits for answers that are being sent


Respond = Callable[[str], WebAnswer]


def respond(pki: Pki, scenario: Scenario, target: str) -> WebAnswer:
    """Return the answer to a GET of *target*, in a scenario and at this time."""
    if scenario in STATUSES:
        status = STATUSES[scenario]
        return refusal(status, HTTPStatus(status).phrase)
    request = WebRequest.of(target)
    issue = issue_of(scenario, datetime.now(UTC))
    first = request.parts[0] if request.parts else ""
    if first in set(Technology):
        return pccs.answer(pki, issue, request)
    if first in kds.KEYS:
        return kds.answer(pki, issue, request)
    words = ", ".join(f"/{word}" for word in (*Technology, *kds.KEYS))
    return refusal(404, f"paths begin with {words}")


@contextmanager
def web_services(
    pki: Pki,
    scenario: Scenario = Scenario.GOOD,
    *,
    port: int = 0,
    delay_s: float = 0,
    by_https: bool = False,
    told: Callable[[str], None] = lambda _line: None,
) -> Iterator[str]:
    """Serve while the block runs, and yield the address; *told* gets a line for each request.

    *by_https*: with the certificate of web_identity(), which clients are to trust.  Raise ConfigError if the port is in use.
    """
    ended = threading.Event()

    def answer(target: str) -> WebAnswer:
        ended.wait(delay_s if scenario is Scenario.SLOW else 0)
        return respond(pki, scenario, target)

    server = _server(port, answer, told)
    if by_https:
        # Each connection's own thread shakes hands, so that a client that does not stops nobody.
        server.socket = _tls(pki).wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"{'https' if by_https else 'http'}://{HOST}:{server.server_port}"
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


@asynccontextmanager
async def services_of(folder: Path, port: int) -> AsyncIterator[str]:
    """Serve for the test PKI in *folder*; its end waits in a thread for answers that are being sent."""
    stack = ExitStack()
    address = stack.enter_context(web_services(load(folder), port=port))
    try:
        yield address
    finally:
        await asyncio.to_thread(stack.close)


def _tls(pki: Pki) -> ssl.SSLContext:
    """Return the context; the library reads certificate and key from a file only."""
    identity = web_identity(pki.seed)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(identity.pem + key_text(identity).decode())
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _server(port: int, answer: Respond, told: Callable[[str], None]) -> ThreadingHTTPServer:
    class _Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S

        def do_GET(self) -> None:
            made = answer(self.path)
            self.send_response(made.status)
            self.send_header("Content-Type", made.kind)
            self.send_header("Content-Length", str(len(made.content)))
            for name, value in made.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(made.content)

        @override
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            told(f"{getattr(code, 'value', code)} {self.path}")

        @override
        def log_message(self, format: str, *args: object) -> None:
            told(format % args)

    try:
        return _Server((HOST, port), _Handler)
    except OSError as error:
        raise ConfigError(
            f"port {port} cannot be served: {error.strerror}", hint="give another port"
        ) from error
