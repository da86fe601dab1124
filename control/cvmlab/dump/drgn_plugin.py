# SPDX-License-Identifier: GPL-2.0-or-later
"""A plugin of drgn: dumps of guests whose page tables carry an address bit.

drgn takes the bit that tells private from shared pages for a part of the address.  A live VM answers
at both addresses; in a dump this plugin does.  drgn finds it by its entry point.
"""

from pathlib import Path
from typing import Any


def drgn_prog_set(prog: Any) -> None:
    """Called by drgn when a program is ready; *prog* is a drgn.Program."""
    path = getattr(prog, "core_dump_path", None)
    if path is None:
        return
    from cvmlab.dump.saved_states import alias_bit_of  # not for each program that is not a dump

    bit = alias_bit_of(Path(path))
    if not bit:
        return

    def read(address: int, count: int, _offset: int, _physical: int) -> bytes:
        return prog.read(address & ~bit, count, physical=True)  # type: ignore[no-any-return]

    prog.add_memory_segment(bit, bit, read, True)
