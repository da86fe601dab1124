# SPDX-License-Identifier: GPL-2.0-or-later
"""A key broker: it gives a key to a guest that attests itself as expected, and to no other.

    python broker.py --root ROOT.der --collateral http://127.0.0.1:8081 --expect expect.json

GET /nonce gives 64 bytes, which the guest has to put into its quote or report.  POST /key takes the
quote or report, in base64, and answers with the key, or with the reason why not.  The key is sent in clear: a
real broker encrypts it to a key that the quote names.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import secrets
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import dcap_qvl
import omne_attest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding


KEY = hashlib.sha256(b"the key of the guest's disk").digest()
SNP_REPORT_BYTES = 1184
PRODUCTS = {(0x19, 0x11): "Genoa"}  # family and model, which reports have from version 3 on


class Refused(Exception):  # noqa: N818 - what happened
    """Why a guest gets no key."""


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as page:
        return page.read()


class Verifier:
    """Trusts one root, and asks one place for collateral."""

    def __init__(self, root: bytes, collateral: str) -> None:
        self._root, self._collateral = root, collateral

    def claims(self, evidence: bytes) -> tuple[bytes, dict[str, str]]:
        """Return the data that the guest chose and its measurements; raise Refused."""
        try:
            if len(evidence) == SNP_REPORT_BYTES:
                return self._snp(evidence)
            return asyncio.run(self._tdx(evidence))
        except (ValueError, RuntimeError, OSError, omne_attest.Fail) as error:
            raise Refused(f"it is not attested: {error}") from error

    async def _tdx(self, quote: bytes) -> tuple[bytes, dict[str, str]]:
        collateral = await dcap_qvl.get_collateral(self._collateral, quote)
        found = dcap_qvl.verify_with_root_ca(quote, collateral, self._root, int(time.time()) + 1)
        if found.status != "UpToDate":
            raise Refused(f"its platform is {found.status}")
        td = dcap_qvl.parse_quote(quote).report
        if td.td_attributes[0] & 1:
            raise Refused("the host can debug it")
        names = {"MRTD": td.mr_td, "RTMR0": td.rt_mr0, "RTMR1": td.rt_mr1, "RTMR2": td.rt_mr2}
        return td.report_data, {name: value.hex() for name, value in names.items()}

    def _snp(self, report: bytes) -> tuple[bytes, dict[str, str]]:
        parsed = omne_attest.Report.parse(report)
        product = PRODUCTS.get((report[0x188], report[0x189]), "Milan")
        base, tcb = f"{self._collateral}/vcek/v1/{product}", parsed.reported_tcb
        query = (
            f"blSPL={tcb.boot_loader}&teeSPL={tcb.tee}&snpSPL={tcb.snp}&ucodeSPL={tcb.microcode}"
        )
        vcek = get(f"{base}/{parsed.chip_id.hex()}?{query}")
        chain = x509.load_pem_x509_certificates(get(f"{base}/cert_chain"))
        ask, ark = (one.public_bytes(Encoding.DER) for one in chain)
        root = hashlib.sha256(self._root).digest()
        omne_attest.verify(report, vcek, ask, ark, root, omne_attest.Policy())
        return parsed.report_data, {"measurement": parsed.measurement.hex()}


class Broker:
    """Gives out nonces, each good for one request, and the key."""

    def __init__(self, verifier: Verifier, expected: Path) -> None:
        self._verifier, self._expected = verifier, expected
        self._nonces: set[bytes] = set()

    def nonce(self) -> bytes:
        made = secrets.token_bytes(64)
        self._nonces.add(made)
        return made

    def key(self, evidence: bytes) -> bytes:
        data, measured = self._verifier.claims(evidence)
        if data not in self._nonces:
            raise Refused("it is not the answer to a nonce of ours")
        self._nonces.remove(data)
        values = json.loads(self._expected.read_text())["values"].items()
        expected = {name: value for name, value in values if value is not None}
        wrong = [name for name, value in measured.items() if expected.get(name, value) != value]
        if wrong or not measured.keys() & expected.keys():
            raise Refused(f"it is another guest: {', '.join(wrong) or 'all'} differs")
        return KEY


def handler(broker: Broker) -> type[BaseHTTPRequestHandler]:
    """Return what serves *broker* by HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, broker.nonce())

        def do_POST(self) -> None:
            evidence = self.rfile.read(min(int(self.headers["Content-Length"]), 1 << 16))
            try:
                self._answer(200, broker.key(base64.b64decode(evidence)))
                print("key given", flush=True)  # noqa: T201 - what the program is for
            except (Refused, ValueError) as why:
                print(f"refused: {why}", flush=True)  # noqa: T201 - what the program is for
                self._answer(403, str(why).encode())

        def _answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser(description="Give a key to guests that attest themselves.")
    parser.add_argument("--root", type=Path, required=True, help="the root to trust, DER")
    parser.add_argument("--collateral", required=True, help="URL of the PCCS and the KDS")
    parser.add_argument(
        "--expect", type=Path, required=True, help="what `cvmlab measure --json` wrote"
    )
    parser.add_argument(
        "--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)"
    )
    given = parser.parse_args()
    verifier = Verifier(given.root.read_bytes(), given.collateral)
    server = HTTPServer(("127.0.0.1", given.port), handler(Broker(verifier, given.expect)))
    print(server.server_port, flush=True)  # noqa: T201 - what the program is for
    server.serve_forever()


if __name__ == "__main__":
    main()
