# SPDX-License-Identifier: GPL-2.0-or-later
"""The services on a port of this machine, by HTTP or HTTPS."""

import asyncio
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from cvmlab.base.errors import ConfigError
from cvmlab.collateral import kds, pccs
from cvmlab.collateral.scenarios import STATUSES, Scenario, issue_of
from cvmlab.collateral.tcb_documents import Technology
from cvmlab.collateral.web_answers import WebAnswer, WebRequest, refusal
from cvmlab.pki.authorities import Pki
from cvmlab.pki.pki_folder import key_text, load
from cvmlab.pki.web_identity import HOST, web_identity


_TIMEOUT_S: Final = 5  # for each piece of a request
_DEADLINE_S: Final = 20  # for a whole connection, without the time that an answer is held back

Respond = Callable[[str], WebAnswer]
Tell = Callable[[str], None]


class _Server(ThreadingHTTPServer):
    """One whose connections end, whatever clients do; *tell* gets a line for each that ended badly."""

    daemon_threads = False  # its end waits for answers that are being sent

    def __init__(
        self, port: int, handler: type[BaseHTTPRequestHandler], tell: Tell, deadline_s: float
    ) -> None:
        self._tell, self._deadline_s = tell, deadline_s
        self._ends: dict[socket.socket, float] = {}
        self._lock = threading.Lock()  # what is in _ends is not closed meanwhile
        super().__init__((HOST, port), handler)

    @override
    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._ends[request] = time.monotonic() + self._deadline_s
        super().process_request(request, client_address)

    @override
    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._ends.pop(request, None)
        super().shutdown_request(request)

    @override
    def service_actions(self) -> None:
        with self._lock:
            late = [one for one, end in self._ends.items() if end < time.monotonic()]
            for connection in late:
                del self._ends[connection]
                _shut(connection, socket.SHUT_RDWR)
        for _ in late:
            self._tell(f"a connection took longer than {self._deadline_s:g} seconds")

    @override
    def server_close(self) -> None:
        with self._lock:
            for connection in self._ends:
                _shut(connection, socket.SHUT_RD)  # nobody waits for requests any more
        super().server_close()

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):  # such as a client that does not trust the certificate
            self._tell(f"a connection failed: {' '.join(str(error).split())}")
        else:
            super().handle_error(request, client_address)


def _shut(connection: socket.socket, what: int) -> None:
    with suppress(OSError):  # the client may have ended it
        # Not SSLSocket's own, which would take the session away from the thread that uses it.
        socket.socket.shutdown(connection, what)


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
    deadline_s: float = _DEADLINE_S,
    told: Tell = lambda _line: None,
) -> Iterator[str]:
    """Serve while the block runs, and yield the address; *told* gets a line for each request.

    A connection that takes longer than *deadline_s* is ended.
    *by_https*: with the certificate of web_identity(), which clients are to trust.  Raise ConfigError if the port is in use.
    """
    ended = threading.Event()
    held_s = delay_s if scenario is Scenario.SLOW else 0

    def answer(target: str) -> WebAnswer:
        ended.wait(held_s)
        return respond(pki, scenario, target)

    server = _server(port, answer, told, held_s + deadline_s)
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


def _server(port: int, answer: Respond, told: Tell, deadline_s: float) -> _Server:
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
            path = getattr(self, "path", "-")  # a request that is none has no path
            told(f"{getattr(code, 'value', code)} {path}")

        @override
        def log_message(self, format: str, *args: object) -> None:
            told(format % args)

    try:
        return _Server(port, _Handler, told, deadline_s)
    except OSError as error:
        raise ConfigError(
            f"port {port} cannot be served: {error.strerror}", hint="give another port"
        ) from error
