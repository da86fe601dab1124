# SPDX-License-Identifier: GPL-2.0-or-later
"""emulate(): the emulated kernel of a generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from cvmlab.base.errors import ConfigError
from cvmlab.generations.hugetlb import HugeKvm
from cvmlab.generations.inaccessible import InaccessibleKernel
from cvmlab.generations.restrictedmem import RestrictedKernel
from cvmlab.generations.rulebook import Generation
from cvmlab.generations.seal_guest import SealKernel
from cvmlab.generations.vms.kvm import Kvm


if TYPE_CHECKING:
    from collections.abc import Iterable

    from cvmlab.generations.faults import FaultPlan
    from cvmlab.generations.files.huge_pages import HugePool

Kernel = SealKernel | InaccessibleKernel | RestrictedKernel | Kvm


def emulate(
    *,
    generation: Generation | str,
    version: str | None = None,
    quirks: Iterable[str] = (),
    faults: FaultPlan | None = None,
    pools: Iterable[HugePool] = (),
) -> Kernel:
    """Return a fresh emulated kernel.

    :param version: a posted version of that generation; None for the default one.
    :param quirks: known defects of the posted code to emulate.
    :raise ConfigError: there is no such generation, version or quirk.
    """
    chosen = _generation(generation)
    match chosen:
        case Generation.SEAL_GUEST:
            return SealKernel(version=version, quirks=quirks, faults=faults)
        case Generation.INACCESSIBLE:
            return InaccessibleKernel(version=version, quirks=quirks, faults=faults)
        case Generation.RESTRICTEDMEM:
            return RestrictedKernel(version=version, quirks=quirks, faults=faults)
        case Generation.HUGE_GUEST_MEMFD:
            return HugeKvm(version=version, quirks=quirks, faults=faults, pools=pools)
        case Generation.GUEST_MEMFD | Generation.MAPPABLE_GUEST_MEMFD:
            return Kvm(chosen, version=version, quirks=quirks, faults=faults)
        case _:
            assert_never(chosen)


def _generation(asked: Generation | str) -> Generation:
    try:
        return Generation(asked)
    except ValueError:
        known = ", ".join(f"{item.value} ({item.name.lower()})" for item in Generation)
        raise ConfigError(
            f"there is no generation {asked!r} of restricted memory", hint=f"known: {known}"
        ) from None
