# SPDX-License-Identifier: GPL-2.0-or-later
"""A request that was read and checked, as values.  Pure."""

from dataclasses import dataclass
from pathlib import Path

from cvmlab.images.recipes import DiskRecipe
from cvmlab.machine.spec import BootSpec, DiskInterface
from cvmlab.results.baselines import BaselineEntry, Tolerance
from cvmlab.results.budgets import Budget
from cvmlab.vm.launch import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestWords:
    """Which guest boots, and what it is told.

    ``boots_from_disk``: the firmware finds the kernel; ``disk_recipe`` is there if that disk is ours.
    """

    image: str | None
    disk_recipe: DiskRecipe | None
    boots_from_disk: bool
    kernel: Path | None
    initrd: Path | None
    append: str | None
    exec: str | None
    share: Path | None
    user_data: Path | None
    symbols: Path | None
    disk_interface: DiskInterface
    console: bool
    is_left_alone: bool  # nobody watches it, or waits for its console


@dataclass(frozen=True, slots=True)
class Measured:
    """What an earlier boot like this one took, and how much more is no regression."""

    entry: BaselineEntry
    tolerance: Tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeWords:
    """When the boot is over, and what it may take."""

    expect: str | None
    timeout_s: float
    budgets: tuple[Budget, ...]
    baseline: Measured | None

    @property
    def by_phase(self) -> bool:
        """Whether something is judged phase by phase: then no event may be missing."""
        return self.baseline is not None or any(budget.phase for budget in self.budgets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """All of a request.  ``machine`` lacks the guest's files; ``setting.qemu`` is the one asked for."""

    title: str
    variant: tuple[str, ...]
    guest: GuestWords
    machine: BootSpec
    setting: Setting
    judge: JudgeWords
    paused: bool
