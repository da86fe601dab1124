# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest gets from configfs-tsm, and its event log, by way of its command's output."""

import base64
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.guest.devices import TSM_REPORT
from tests.guest.program import cvmlab


DATA = b"A" * 64
_LOG = "/sys/firmware/acpi/tables/data/CCEL"
# TSM_REPORT asks with 64 times A.
SCRIPT = (
    f"{TSM_REPORT} && echo provider $(cat provider) && echo outblob: && base64 outblob && echo end && "
    "if [ -e auxblob ]; then echo auxblob: && base64 auxblob && echo end; fi && "
    f"if [ -e {_LOG} ]; then echo CCEL: && base64 {_LOG} && echo end; fi"
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The provider's name, its blob, certificates and the event log, which may be missing.

    ``argv`` is the command line of the QEMU that ran the guest.
    """

    provider: str
    blob: bytes
    certificates: bytes
    log: bytes
    argv: list[str]

    def argument(self, name: str) -> str:
        """Return what follows a word of the command line; empty without it."""
        return self.argv[self.argv.index(name) + 1] if name in self.argv else ""


def _told(text: str, name: str) -> bytes:
    found = re.search(rf"^{name}:\r?\n(.*?)^end", text, re.MULTILINE | re.DOTALL)
    return b"" if found is None else base64.b64decode(found[1])


def evidence(folder: Path, *words: str) -> Evidence:
    """Boot a guest with these words and return what it got; its run folder is *folder*."""
    done = cvmlab("boot", *words, "--exec", SCRIPT, "--json", "-", "--run-dir", str(folder))
    assert done.code == 0, done.err
    text = (folder / "exec.log").read_text()
    provider = re.search(r"^provider (\S+)", text, re.MULTILINE)
    assert provider is not None, text
    blob, certificates, log = (_told(text, name) for name in ("outblob", "auxblob", "CCEL"))
    argv = shlex.split((folder / "cmdline").read_text())
    return Evidence(provider[1], blob, certificates, log, argv)
