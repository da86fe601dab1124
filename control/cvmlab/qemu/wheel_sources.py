# SPDX-License-Identifier: GPL-2.0-or-later
"""Licences of the files in a wheel: their texts, and where each source is available."""

import gzip
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cvmlab.base.errors import BuildError
from cvmlab.qemu.firmware import package_names


# Texts that Debian's copyright files refer to.
_COMMON = Path("/usr/share/common-licenses")
_COMMON_TEXTS = ("GPL-2", "GPL-3", "LGPL-2", "LGPL-2.1", "LGPL-3", "Apache-2.0")
_DEADLINE_S = 60.0

_NOTE = """\
# Sources of the files in this wheel

cvmlab itself is in this wheel as source, under GPL-2.0-or-later.  The folder `_bundle` has programs, libraries and firmware that were compiled from the
sources below, under the licences in `licenses`.  Some are under the GNU GPL or LGPL: if you redistribute this wheel, provide or offer these sources,
as those licences require (GPL-2.0 section 3, LGPL-2.1 section 6).

QEMU {version} was configured with

    {options}

from `{source}` (SHA-256 of what names it: {key}), to which the files and patches in `cvmlab/_plugin` of this wheel were added.
`cvmlab build --qemu-source` builds it again.  The libraries in `_bundle/lib` are linked dynamically: you can replace them by another build.

| file | Debian package | version | source package |
|---|---|---|---|
{rows}

Each source package is in the Debian archive (`apt-get source NAME=VERSION`), or in Debian's snapshot archive once it has been replaced.
"""


def sources_note(build: dict[str, Any], libraries: Sequence[Path], roms: Iterable[Path]) -> str:
    """Return the text of SOURCES.md; *build* is the build's record.  Raise BuildError."""
    rows = [(path.name, *_described(_package_of(path))) for path in libraries]
    rows += [(f"share/ ({name})", name, *_firmware_version(name, roms)) for name in package_names()]
    return _NOTE.format(
        version=build["version"],
        options=" ".join(build["options"]),
        source=build["source"]["path"],
        key=build["source"]["key"],
        rows="\n".join(f"| {' | '.join(row)} |" for row in rows),
    )


def licences(libraries: Iterable[Path], roms: Iterable[Path]) -> dict[str, str]:
    """Return licence texts by file name: Debian's copyright file of each package, and common texts."""
    texts = {}
    for path in libraries:
        package = _package_of(path).partition(":")[0]
        texts[f"{package}.txt"] = Path("/usr/share/doc", package, "copyright")
    for name in package_names():
        texts[f"{name}.txt"] = _document(name, roms)
    texts |= {f"{name}.txt": _COMMON / name for name in _COMMON_TEXTS}
    try:
        return {name: path.read_text(encoding="utf-8") for name, path in texts.items()}
    except OSError as error:
        raise BuildError(
            f"the licence {error.filename} cannot be read: {error.strerror}",
            hint="build the wheel on Debian or Ubuntu, with /usr/share/doc in place",
        ) from error


def _document(name: str, roms: Iterable[Path]) -> Path:
    shares = {folder.parent for folder in roms}
    found = [share / "doc" / name / "copyright" for share in shares]
    return next((path for path in found if path.is_file()), found[0])


def _firmware_version(name: str, roms: Iterable[Path]) -> tuple[str, str]:
    """Return version and source package, from the package's changelog."""
    changelog = _document(name, roms).with_name("changelog.Debian.gz")
    with gzip.open(changelog, "rt", encoding="utf-8") as lines:
        source, _, rest = next(lines).partition(" (")
    version = rest.partition(")")[0]
    return version, f"{source} {version}"


def _package_of(path: Path) -> str:
    """Return the installed Debian package of a library."""
    for candidate in (path, path.resolve(), Path("/usr") / path.resolve().relative_to("/")):
        done = _dpkg("-S", str(candidate))
        if done is not None:
            return done.partition(": ")[0].partition(",")[0]
    raise BuildError(
        f"{path} belongs to no Debian package, so its licence is not known",
        hint="install Debian's build of that library",
    )


def _described(package: str) -> tuple[str, str, str]:
    """Return name, version and source package."""
    said = _dpkg("-W", "-f", "${Package}\t${Version}\t${source:Package} ${source:Version}", package)
    if said is None:
        raise BuildError(f"dpkg does not know the package {package}")
    name, version, source = said.split("\t")
    return name, version, source


def _dpkg(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["dpkg-query", *words], capture_output=True, text=True, check=False, timeout=_DEADLINE_S
        )
    except OSError as error:
        raise BuildError("a wheel is built on Debian or Ubuntu: there is no dpkg-query") from error
    return done.stdout.strip() if done.returncode == 0 else None
