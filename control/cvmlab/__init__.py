# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot confidential-VM guests on QEMU's TCG and watch their memory, page by page.

Visibility and page states are emulated; nothing is encrypted and nothing is secured.
"""

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from cvmlab.machine.spec import BootSpec
    from cvmlab.memory.ranges import GpaRange
    from cvmlab.vm.sync import SyncVm
    from cvmlab.vm.vm import Vm


__version__ = "0.1.0"
__all__ = ["BootSpec", "GpaRange", "SyncVm", "Vm", "__version__"]
_HOMES = {
    "BootSpec": "machine.spec",
    "GpaRange": "memory.ranges",
    "SyncVm": "vm.sync",
    "Vm": "vm.vm",
}


def __getattr__(name: str) -> object:
    """Import what is asked for only then: the command line must start at once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cvmlab' has no attribute {name!r}")
    return getattr(import_module(f"cvmlab.{_HOMES[name]}"), name)
