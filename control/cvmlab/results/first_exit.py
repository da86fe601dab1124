# SPDX-License-Identifier: GPL-2.0-or-later
"""Where hardware would have ended a kernel that does not speak its profile's interface.  Pure.

The plugin journals the first instruction of such a kernel that a host answers on hardware: an
exception, which the kernel does not handle.
"""

import numpy as np

from cvmlab.memory.journal import Records
from cvmlab.memory.records import Kind, exit_name
from cvmlab.results.callers import Callers, function_of
from cvmlab.results.summary import Resolve


def first_exit(records: Records, resolve: Resolve, callers: Callers) -> str | None:
    """Return ``RDMSR 0x8b in early_init, called by start_kernel``; None: the journal has none."""
    found = np.flatnonzero(records["kind"] == Kind.EXIT)
    if not len(found):
        return None
    record = records[found[0]]
    rip, stack = int(record["rip"]), int(record["stack"])
    where = callers.blamed(stack, resolve(rip))
    if where is None:
        return f"{exit_name(record)} at {rip:#x}"
    above = callers.above(stack)
    called = f", called by {above[0]}" if above else ""
    return f"{exit_name(record)} in {function_of(where)}{called}"
