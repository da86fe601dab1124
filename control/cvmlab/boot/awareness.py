# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the guest's kernel took part in what its profile is about.  Pure.

A kernel without support for the profile's technology boots here, because nothing has to be trapped
in an emulator, and on hardware it dies.  A verdict about such a guest would be green though nothing
was tested.  What a kernel does that speaks the interface is a row of the profile; the plugin counts it.
"""

from collections.abc import Mapping

from cvmlab.profiles.profile import Interface
from cvmlab.results.result import KernelEvidence


def weigh(
    interface: Interface | None,
    counts: Mapping[str, int],
    *,
    kernel_ran: bool,
    first_exit: str | None,
) -> KernelEvidence | None:
    """Return what was seen of the guest's side of *interface*; None if it has no side.

    *first_exit* is the kernel's first instruction that its host answers, as far as the journal has one.
    """
    if interface is None:
        return None
    calls, early = counts["kernel_calls"], counts["early_calls"]
    # What is no kernel, such as a bare-metal test, runs where firmware does.
    spoke = calls > 0 or (not kernel_ran and early > 0)
    return KernelEvidence(
        interface=interface.name,
        proof=interface.proof,
        kernel_ran=kernel_ran,
        kernel_calls=calls,
        early_calls=early,
        spoke=spoke,
        required=interface.required,
        first_exit=None if spoke else first_exit,
    )


def unaware(interface: Interface | None, evidence: KernelEvidence | None) -> str | None:
    """Return a sentence if the guest should have spoken and did not."""
    if interface is None or evidence is None or not evidence.required or evidence.spoke:
        return None
    who = "the guest's kernel" if evidence.kernel_ran else "the guest"
    told = f"{who} {interface.silence}: there was no {interface.proof}"
    if not evidence.kernel_ran:
        return told
    latest = f": at the latest at {evidence.first_exit}" if evidence.first_exit else ""
    return f"{told} of its own; {interface.fate}{latest}"


def hint(interface: Interface, release: str | None, config: str | None) -> str:
    """Say why a kernel does not speak: by its configuration, by its release, or what it needs."""
    lacks = f"this kernel has no {interface.name} support"
    if config is not None and interface.config and f"{interface.config}=y" not in config.split():
        return f"{lacks}: {interface.config} is not set"
    since = ".".join(map(str, interface.since))
    if release is not None and (number := _number(release)) and number < interface.since:
        return f"{lacks}: it is Linux {release}, and that came with {since}"
    wanted = f" with {interface.config}=y" if interface.config else ""
    return (
        f"a kernel with {interface.name} support is Linux {since} or later{wanted}; "
        "--allow-unaware accepts one without"
    )


def _number(release: str) -> tuple[int, ...]:
    """Return the version of a release such as ``6.12.107+deb13``; empty if it has none."""
    parts = release.split(".")[:2]
    numbers = ["".join(char for char in part if char.isdigit()) for part in parts]
    return tuple(map(int, numbers)) if all(numbers) else ()
