# SPDX-License-Identifier: GPL-2.0-or-later
"""Add files to a wheel, and tag it for the machines on which they run."""

import base64
import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from cvmlab.base.errors import BuildError


# The earliest time that a zip file can store, so that the same input gives the same bytes.
_TIME = (1980, 1, 1, 0, 0, 0)
_FILE, _PROGRAM = 0o100644 << 16, 0o100755 << 16


def extend(wheel: Path, files: Mapping[str, Path], tag: str, into: Path) -> Path:
    """Write a copy of *wheel* to the folder *into*, with *files* added; return its path.

    *files* maps the path in the wheel to the file; executable files stay executable.
    Raise BuildError if the wheel has one of these paths already.
    """
    name, version = wheel.name.split("-")[:2]
    target = into / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    into.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        record = []
        for path, content, mode in (*_old(old, info, tag), *_added(old, files)):
            entry = zipfile.ZipInfo(path, _TIME)
            entry.external_attr = mode
            entry.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(entry, content)
            record.append(f"{path},sha256={_digest(content)},{len(content)}\n")
        record.append(f"{info}/RECORD,,\n")
        new.writestr(zipfile.ZipInfo(f"{info}/RECORD", _TIME), "".join(record))
    return target


def _old(old: zipfile.ZipFile, info: str, tag: str) -> Iterator[tuple[str, bytes, int]]:
    for entry in old.infolist():
        content = old.read(entry)
        if entry.filename == f"{info}/RECORD":
            continue
        if entry.filename == f"{info}/WHEEL":
            content = _retag(content.decode(), tag).encode()
        yield entry.filename, content, entry.external_attr or _FILE


def _added(old: zipfile.ZipFile, files: Mapping[str, Path]) -> Iterator[tuple[str, bytes, int]]:
    there = set(old.namelist())
    for path, source in sorted(files.items()):
        if path in there:
            raise BuildError(f"the wheel has a file {path} already")
        is_program = source.stat().st_mode & 0o100
        yield path, source.read_bytes(), _PROGRAM if is_program else _FILE


def _retag(text: str, tag: str) -> str:
    kept = [line for line in text.splitlines() if not line.startswith(("Tag:", "Root-Is-Purelib:"))]
    return "\n".join([*kept, "Root-Is-Purelib: false", f"Tag: {tag}", ""])


def _digest(content: bytes) -> str:
    digest = hashlib.sha256(content).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
