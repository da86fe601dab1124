# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the Debian archive that this machine's apt uses, and describe it for another suite.

cvmlab names no mirror: the machine's owner has chosen one.  ``apt-get indextargets`` lists only
indices that were downloaded before, none in a fresh container, so this module reads the two formats
of sources.list(5).
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cvmlab.base.choices import choose
from cvmlab.base.errors import ConfigError


MIRROR_VARIABLE = "CVMLAB_DEBIAN_MIRROR"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_ONE_LINE = re.compile(r"(deb|deb-src)\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+)")
_OPTION = re.compile(r"([\w-]+)=(\S+)")
_YES = ("yes", "true", "1", "on")  # the values that apt takes for "enabled"
# Suites of the main archive, as opposed to its security, updates and backports siblings.
_ROLES = ("stable", "oldstable", "testing", "unstable")
_CODENAMES = ("bullseye", "bookworm", "trixie", "forky", "duke", "sid")
_DEBIAN_SUITES = frozenset((*_ROLES, *_CODENAMES))
_MAIN = "main"


class Suite(StrEnum):
    """The suites that packages can come from."""

    BULLSEYE = "bullseye"
    BOOKWORM = "bookworm"
    TRIXIE = "trixie"
    BACKPORTS = "trixie-backports"
    SID = "sid"

    @classmethod
    def parse(cls, word: str) -> "Suite":
        """Read a suite's name; ``backports`` are those of trixie."""
        return cls.BACKPORTS if word == "backports" else cls(choose("suite", word, cls))


@dataclass(frozen=True, slots=True)
class AptSource:
    """An entry of the machine's configuration.

    ``signed_by`` is the unchanged field: a path, or a key in several lines.
    """

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str | None = None
    is_trusted: bool = False  # apt checks no signature

    def is_debian(self) -> bool:
        return _MAIN in self.components and not _DEBIAN_SUITES.isdisjoint(self.suites)

    def likeness(self) -> int:
        """Rate how much this looks like Debian's archive: others use Debian's suite names, too."""
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
        if self.is_trusted:
            lines.append("Trusted: yes")
        if keys := self._keys():
            lines.append(f"Signed-By: {keys}")
        return "\n".join(lines) + "\n"

    def _keys(self) -> str | None:
        """Return the keyring of all Debian releases if the entry uses Debian's keys, else its own."""
        debian = self.signed_by is None or "/debian-archive-" in self.signed_by
        return str(KEYRING) if debian and KEYRING.exists() else self.signed_by


def debian_archive(sources: Iterable[AptSource]) -> AptSource:
    """Return the Debian archive among *sources*; raise ConfigError if there is none.

    $CVMLAB_DEBIAN_MIRROR, a URI, overrides the configuration.
    """
    if mirror := os.environ.get(MIRROR_VARIABLE):
        return AptSource((mirror,), (), (_MAIN,))
    candidates = [source for source in sources if source.is_debian()]
    if not candidates:
        raise ConfigError(
            "apt on this machine is not configured with a Debian archive",
            hint=f"set {MIRROR_VARIABLE} to the URI of one (and install debian-archive-keyring), "
            "or give your own files: --kernel and --initrd, --qemu-source",
        )
    return max(candidates, key=AptSource.likeness)


def machine_sources(sources_list: Path, parts: Path) -> list[AptSource]:
    """Return the enabled entries of apt's file and folder."""
    found: list[AptSource] = []
    for path in [sources_list, *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))]:
        try:
            text = path.read_text("utf-8", "replace")
        except (FileNotFoundError, PermissionError):
            continue
        found += parse_deb822(text) if path.suffix == ".sources" else parse_one_line(text)
    return found


def parse_one_line(text: str) -> Iterator[AptSource]:
    """Read the format of sources.list."""
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match is not None:
            _, options, uri, suite, components = match.groups()
            given = {name.lower(): value for name, value in _OPTION.findall(options or "")}
            yield AptSource(
                (uri,),
                (suite,),
                tuple(components.split()),
                given.get("signed-by"),
                given.get("trusted") in _YES,
            )


def parse_deb822(text: str) -> Iterator[AptSource]:
    """Read the format of *.sources; disabled entries are left out."""
    for fields in _paragraphs(text.splitlines()):
        if fields.get("enabled", "yes").lower() in _YES:
            yield AptSource(
                tuple(fields.get("uris", "").split()),
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                fields.get("signed-by"),
                fields.get("trusted", "").lower() in _YES,
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
