# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the Debian archive that this machine's apt uses, and describe it for another suite.

cvmlab names no mirror: the machine has one, chosen by its owner.  ``apt-get indextargets`` would
tell, but only what has been downloaded before, which in a fresh container is nothing; so the two
formats of sources.list(5) are read here.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cvmlab.choices import choose
from cvmlab.errors import ConfigError


MIRROR_VARIABLE = "CVMLAB_DEBIAN_MIRROR"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_APT = Path("/etc/apt")
_ONE_LINE = re.compile(r"(deb|deb-src)\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+)")
_SIGNED_BY = re.compile(r"\bsigned-by=(\S+)", re.IGNORECASE)
# Suites of the main archive, as opposed to its security, updates and backports siblings.
_DEBIAN_SUITES = frozenset(
    ("stable", "oldstable", "testing", "unstable", "sid")
    + ("bullseye", "bookworm", "trixie", "forky", "duke")
)
_MAIN = "main"


class Suite(StrEnum):
    """The suites that packages can come from."""

    BOOKWORM = "bookworm"
    TRIXIE = "trixie"
    BACKPORTS = "trixie-backports"
    SID = "sid"

    @classmethod
    def parse(cls, word: str) -> "Suite":
        """Read a suite's name; ``backports`` are those of trixie."""
        return cls.BACKPORTS if word == "backports" else cls(choose("suite", word, cls))


@dataclass(frozen=True, slots=True)
class Source:
    """An entry of the machine's configuration.

    ``signed_by`` is the field as it stands there: a path, or a key in several lines.
    """

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str | None = None

    def is_debian(self) -> bool:
        return _MAIN in self.components and not _DEBIAN_SUITES.isdisjoint(self.suites)

    def likeness(self) -> int:
        """How much this looks like Debian's archive: others use Debian's suite names too."""
        path_words = {word for uri in self.uris for word in uri.split("/")}
        signed_by_debian = "debian-archive" in (self.signed_by or "")
        foreign_key = self.signed_by is not None and not signed_by_debian
        return 4 * signed_by_debian + 2 * (not foreign_key) + ("debian" in path_words)

    def for_suite(self, suite: Suite, *, source: bool) -> str:
        """Return an entry (deb822) for *suite* of this archive: binary packages, or sources."""
        lines = [
            f"Types: {'deb-src' if source else 'deb'}",
            f"URIs: {' '.join(self.uris)}",
            f"Suites: {suite}",
            f"Components: {_MAIN}",
        ]
        if keys := self._keys():
            lines.append(f"Signed-By: {keys}")
        return "\n".join(lines) + "\n"

    def _keys(self) -> str | None:
        """The entry's own keys, unless they are one release's: another suite needs another's."""
        debian = self.signed_by is None or "/debian-archive-" in self.signed_by
        return str(KEYRING) if debian and KEYRING.exists() else self.signed_by


def debian_archive(etc_apt: Path = _APT) -> Source:
    """Return the Debian archive to use; raise ConfigError if apt is not configured with one.

    $CVMLAB_DEBIAN_MIRROR, a URI, goes before the configuration.
    """
    if mirror := os.environ.get(MIRROR_VARIABLE):
        return Source((mirror,), (), (_MAIN,))
    candidates = [source for source in machine_sources(etc_apt) if source.is_debian()]
    if not candidates:
        raise ConfigError(
            f"apt on this machine is not configured with a Debian archive ({etc_apt})",
            hint=f"set {MIRROR_VARIABLE} to the URI of one (and install debian-archive-keyring), "
            "or bring your own: --kernel and --initrd, --qemu-source",
        )
    return max(candidates, key=Source.likeness)


def machine_sources(etc_apt: Path) -> list[Source]:
    """Return the entries that are enabled under *etc_apt*, in apt's order."""
    parts = etc_apt / "sources.list.d"
    files = [etc_apt / "sources.list", *sorted(parts.glob("*.list")), *parts.glob("*.sources")]
    found: list[Source] = []
    for path in files:
        try:
            text = path.read_text("utf-8", "replace")
        except (FileNotFoundError, PermissionError):
            continue
        found += parse_deb822(text) if path.suffix == ".sources" else parse_one_line(text)
    return found


def parse_one_line(text: str) -> Iterator[Source]:
    """Read the format of sources.list."""
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match is not None:
            _, options, uri, suite, components = match.groups()
            key = _SIGNED_BY.search(options or "")
            yield Source((uri,), (suite,), tuple(components.split()), key.group(1) if key else None)


def parse_deb822(text: str) -> Iterator[Source]:
    """Read the format of *.sources; entries that are switched off are left out."""
    for fields in _paragraphs(text.splitlines()):
        if fields.get("enabled", "yes").lower() in ("no", "false", "0", "off"):
            continue
        yield Source(
            tuple(fields.get("uris", "").split()),
            tuple(fields.get("suites", "").split()),
            tuple(fields.get("components", "").split()),
            fields.get("signed-by"),
        )


def _paragraphs(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    last = ""
    for line in lines:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0].isspace() and last:
            fields[last] += "\n" + line.rstrip()
        else:
            name, _, value = line.partition(":")
            last = name.strip().lower()
            fields[last] = value.strip()
    if fields:
        yield fields
