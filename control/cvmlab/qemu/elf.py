# SPDX-License-Identifier: GPL-2.0-or-later
"""What a program or library needs on the machine it runs on: libraries, and a version of glibc."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from cvmlab.base.errors import BuildError


# Parts of glibc.  Every machine has it, and must use its own, because it includes the loader.
GLIBC = re.compile(r"(libc|libm|libdl|libpthread|librt|libresolv|libutil|ld-linux[\w-]*)\.so\.\d+")
_VERSION = re.compile(rb"GLIBC_(\d+)\.(\d+)(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Needs:
    """``libraries`` are the names that the loader looks for; ``glibc`` is the oldest usable version."""

    libraries: frozenset[str]
    glibc: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read an ELF file; raise BuildError if it is not one."""
        try:
            with path.open("rb") as file:
                elf = ELFFile(file)
                sections = list(elf.iter_sections())
                libraries = {
                    str(tag.needed)  # type: ignore[attr-defined] # it is on tags of this kind
                    for section in sections
                    if isinstance(section, DynamicSection)
                    for tag in section.iter_tags("DT_NEEDED")
                }
                versions = [
                    _parse(str(auxiliary.name))
                    for section in sections
                    if isinstance(section, GNUVerNeedSection)
                    for _, auxiliaries in section.iter_versions()
                    for auxiliary in auxiliaries
                ]
        except (OSError, ELFError) as error:
            raise BuildError(f"{path} is not a program or library: {error}") from error
        return cls(frozenset(libraries), max(versions, default=(0, 0)))

    @property
    def beyond_glibc(self) -> frozenset[str]:
        """The libraries that a bare machine may not have."""
        return frozenset(name for name in self.libraries if not GLIBC.fullmatch(name))


def _parse(version: str) -> tuple[int, int]:
    found = _VERSION.fullmatch(version.encode())
    return (int(found[1]), int(found[2])) if found else (0, 0)
