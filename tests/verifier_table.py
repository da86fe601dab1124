# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of verifiers in docs/attestation.md: each test makes the line of its verifier."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.changed_evidence import flipped


_DOCUMENT = Path(__file__).parents[1] / "docs" / "attestation.md"


def is_refused(check: Callable[[bytes], object], evidence: bytes) -> bool:
    """Tell whether *check* raises what verifiers do."""
    try:
        check(evidence)
    except Exception as error:  # noqa: BLE001  each verifier has errors of its own
        return not isinstance(error, AssertionError)
    return False


def refused(
    check: Callable[[bytes], object], evidence: bytes, places: Mapping[str, int]
) -> list[bool]:
    """Return for each place whether *evidence* is refused with a bit changed there."""
    return [is_refused(check, flipped(evidence, at)) for at in places.values()]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier said: of good evidence, of changed evidence, and with its vendor's root."""

    name: str
    of: str
    root: str
    accepts: bool
    changed: list[bool]
    vendor_refuses: bool

    @property
    def line(self) -> str:
        words = {True: "accepted", False: "refused"}
        changed = f"{sum(self.changed)} of {len(self.changed)} refused"
        vendor = words[not self.vendor_refuses]
        return f"| {self.name} | {self.of} | {self.root} | {words[self.accepts]} | {changed} | {vendor} |"

    def require_in_document(self) -> None:
        """Fail unless the document has this line."""
        assert self.line in _DOCUMENT.read_text().splitlines(), f"the line is now:\n{self.line}"
