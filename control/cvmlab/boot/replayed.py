# SPDX-License-Identifier: GPL-2.0-or-later
"""From a recording to a plan: the guest executes again what it did, until it ends or *until*."""

from dataclasses import replace

from cvmlab.base.errors import ConfigError
from cvmlab.boot.plan import Plan
from cvmlab.boot.restored import plan_without_request
from cvmlab.machine.command_line import BACKEND_ID
from cvmlab.replays.moment import parse_moment
from cvmlab.replays.replay_folder import ReplayFolder
from cvmlab.results.budgets import Ending
from cvmlab.vm.launch import Setting
from cvmlab.vm.vm import Vm


REPLAY_TIMEOUT_S = 600.0
START = "start"  # the checkpoint from which a debugger goes forward when it goes back


def plan_of(
    recording: ReplayFolder,
    setting: Setting,
    *,
    until: str | None = None,
    gdb: str | None = None,
    timeout_s: float = REPLAY_TIMEOUT_S,
) -> Plan:
    """Return the plan that executes *recording* again.

    *until* is a moment (moment.py).  With *gdb* a debugger may attach, there or at the beginning, and
    go back as well.

    :raise ConfigError: *until* makes no sense, or the guest shows a debugger nothing.
    """
    if gdb is not None and not recording.spec.debuggable:
        raise ConfigError(
            f"the guest of {recording.path} shows a debugger nothing",
            hint="record the boot with --debuggable",
        )
    recording.spec = replace(recording.spec.without_ports, gdb=gdb)
    plan = plan_without_request(
        recording.spec, setting, title=recording.path.name, timeout_s=timeout_s
    )
    symbols = plan.symbols

    def address_of(name: str) -> int | None:
        if not plan.fixed_addresses:
            raise ConfigError(
                "where the guest's functions are is not known: its kernel moves itself (KASLR)",
                hint="record the boot with --append nokaslr, or stop at an event",
            )
        found = symbols.get()
        return None if found is None else found.address_of(name)

    moment = None if until is None else parse_moment(until, address_of)
    if moment is not None and moment.pc is not None and not recording.spec.debuggable:
        raise ConfigError(
            f"the host does not see where the guest of {recording.path} is",
            hint="record the boot with --debuggable, or stop at an event",
        )
    return replace(
        plan,
        paused=gdb is not None and moment is None,
        release=recording.manifest.release,
        recording=recording,
        until=moment,
    )


async def prepare(vm: Vm, plan: Plan) -> None:
    """Do what has to be done before the guest of a replay executes its first instruction."""
    if plan.recording is not None and plan.spec.gdb is not None:
        await vm.checkpoint(START)
    if plan.until is not None:
        await vm.command("restricted-memory-stop-at", {"id": BACKEND_ID, **plan.until.arguments()})


def until_met(ending: Ending, plan: Plan) -> Ending:
    """Return *ending*, or that the moment did not come, which is no success."""
    if plan.until is None or plan.spec.gdb is not None or ending.is_wanted or ending.is_wrong:
        return ending
    return Ending(marker_missing=f"the guest ended before the moment {plan.until.text!r}")
