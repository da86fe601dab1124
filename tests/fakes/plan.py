# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fake QEMU does, and the file that runs it."""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


PROGRAM = "tests.fakes.fake_qemu"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``boot`` are steps, run at the first ``cont``; each is a name and a value:

    console TEXT, agent TEXT, log TEXT, event [NAME, DATA], shutdown REASON, die STATUS (negative: signal),
    touch [FIRST, COUNT], phase N, host_fault GPA, call WHO (kernel or early), stopped STOP (as the
    plugin tells it), crash STOP (told only when it is asked), records COUNT, unpublished,
    write_ring [OFFSET, HEX].

    ``on`` says what happens instead of answering a command: hang, hang all (QEMU does nothing any
    more), drop, truncate, garbage, nonsense, or an exit status.  ``refuse`` maps a command to the
    error it gives.  ``no_plugin`` is "at start" (-object is refused) or "in QMP".
    """

    boot: tuple[dict[str, Any], ...] = ()
    on: dict[str, str | int] = field(default_factory=dict)
    refuse: dict[str, str] = field(default_factory=dict)
    no_plugin: str = ""
    no_greeting: bool = False
    greeting: dict[str, Any] | None = None
    exit_at_start: int | None = None
    ignore_sigterm: bool = False
    quit_status: int = 0

    def install(self, folder: Path) -> Path:
        """Write an executable that runs this plan; return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        plan = folder / "plan.json"
        given = {key: value for key, value in asdict(self).items() if value is not None}
        plan.write_text(json.dumps(given))
        program = folder / "qemu-fake"
        program.write_text(
            "#!/bin/sh\n"
            f"PYTHONPATH='{ROOT}' exec {sys.executable} -S -m {PROGRAM} '{plan}' \"$@\"\n"
        )
        program.chmod(0o755)
        return program
