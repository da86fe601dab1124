# SPDX-License-Identifier: GPL-2.0-or-later
"""A command for a guest that boots from its own disk: a NoCloud seed, which is a small second disk.

Any image with cloud-init reads it, as does the service in our own images.  systemd's credentials by
SMBIOS need no disk, but a confidential guest rightly does not trust them.

The user-data is one script that contains the agent and the command, so the image needs neither.
"""

import base64
import hashlib
import io
from collections.abc import Sequence
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from pathlib import Path

from pycdlib import PyCdlib

from cvmlab.debian import cache
from cvmlab.images.initramfs import agent, exec_script
from cvmlab.profiles.architecture import DEFAULT_ARCHITECTURE


_LABEL = "cidata"  # the label that NoCloud looks for
_KEPT = 64
# Power off at once, so that the command's output is the last on the console.  cloud-init runs the
# script in the middle of its work and logs many errors if systemd ends first: there, in order.
_POWER_OFF = """\
if command -v cloud-init >/dev/null; then how=--no-block; else how=--force; fi
systemctl "$how" poweroff || poweroff -f
"""
_HEAD = """\
#!/bin/sh
# Written by cvmlab: runs a command and tells the host how it ended.
exec >/dev/console 2>&1 </dev/null
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux
mkdir -p /run/cvmlab
"""


def script(
    command: str | None,
    *,
    power_off: bool,
    share: bool = False,
    port: str = DEFAULT_ARCHITECTURE.agent,
) -> bytes:
    """Return the script that runs the agent, with *command* if there is one.

    *share*: the host offers a shared folder.  *port* is the guest's second serial port.
    """
    parts = [_HEAD, _unpack("agent", agent(port))]
    if share:
        parts.append(": >/run/cvmlab/share\n")
    if command is not None:
        parts.append(_unpack("exec", exec_script(command)))
    parts.append("/bin/sh /run/cvmlab/agent\n")
    if power_off:
        parts.append(_POWER_OFF)
    return "".join(parts).encode()


def user_data(ours: bytes | None, users: bytes | None) -> bytes:
    """Return the user-data: our script, the user's own, or both; at least one is given.

    cloud-init runs scripts in the order of their names, so ours runs last.
    """
    if users is None or ours is None:
        return ours or users or b""
    boundary = f"cvmlab-{hashlib.sha256(users).hexdigest()[:32]}"
    both = MIMEMultipart("mixed", boundary)
    # cloud-init detects the type of a text/plain part by its first line.
    for name, kind, contents in (
        ("users", ("text", "plain"), users),
        ("zz-cvmlab", ("text", "x-shellscript"), ours),
    ):
        part = MIMEBase(*kind)
        part.set_payload(base64.encodebytes(contents).decode())
        part["Content-Transfer-Encoding"] = "base64"
        part.add_header("Content-Disposition", "attachment", filename=name)
        both.attach(part)
    return both.as_bytes()


def image(data: bytes) -> Path:
    """Return a seed (ISO 9660) with *data* as user-data, from the cache."""
    # Each content gets a new instance ID, because cloud-init runs a script once per instance.
    meta = f"instance-id: cvmlab-{hashlib.sha256(data).hexdigest()[:16]}\n".encode()
    files = (("meta-data", meta), ("user-data", data))
    key = [part for name, contents in files for part in (name, contents)]
    return cache.kept("seed", ".iso", key, lambda path: _write(path, files), keep=_KEPT)


def _unpack(name: str, contents: bytes) -> str:
    """Return shell code that writes a file; base64 cannot contain the end marker."""
    text = base64.encodebytes(contents).decode()
    return f"base64 -d >/run/cvmlab/{name} <<end\n{text}end\n"


def _write(path: Path, files: Sequence[tuple[str, bytes]]) -> None:
    iso = PyCdlib()
    iso.new(interchange_level=3, vol_ident=_LABEL, rock_ridge="1.09", joliet=3)
    for number, (name, contents) in enumerate(files):
        iso.add_fp(
            io.BytesIO(contents),
            len(contents),
            f"/FILE{number}.;1",
            rr_name=name,
            joliet_path=f"/{name}",
        )
    iso.write(str(path))
    iso.close()
