# SPDX-License-Identifier: GPL-2.0-or-later
"""A run folder that is read after the run: result, journal, and the names of its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cvmlab.base.documents import NO_DOCUMENT
from cvmlab.base.errors import ConfigError
from cvmlab.base.safe_text import safe_line
from cvmlab.memory.journal import JournalFile, Records
from cvmlab.memory.measures import MEASURES, Measures
from cvmlab.memory.ranges import PAGE_SIZE, Slot
from cvmlab.results.result import Result, from_json
from cvmlab.results.timeline import Names
from cvmlab.vm.process import log_tail


NAMES_FILE = "names.json"
_HINT = "give the folder of a run: `cvmlab boot --run-dir DIR` or `--keep` leaves one"


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One run; ``result`` is None while it goes on, or if its controller was killed.

    ``console`` are the guest's last lines.
    """

    title: str
    result: Result | None
    records: Records
    names: Names
    console: Sequence[str] = ()


def load(folder: Path, measures: Measures = MEASURES) -> Recording:
    """Read a run folder; raise ConfigError if it is none."""
    if not (folder / "events.bin").is_file():
        raise ConfigError(f"{folder} has no events.bin", hint=_HINT)
    result = None
    if (folder / "result.json").is_file():
        result = from_json((folder / "result.json").read_bytes(), measures)
    journal = JournalFile(folder / "events.bin")
    journal.require_sense()
    records = journal.records
    title = safe_line(folder.absolute().name)
    console = log_tail(folder / "console.log")
    return Recording(title, result, records, _names(folder, result, records), console)


def encode_names(names: Names) -> bytes:
    """Return the content of ``names.json``."""
    return msgspec.json.encode(names)


def read_names(folder: Path) -> Names:
    """Return the names in a run folder; none while its VM runs.  Raise ConfigError."""
    try:
        return msgspec.json.decode((folder / NAMES_FILE).read_bytes(), type=Names)
    except FileNotFoundError:
        return Names()
    except OSError as error:
        what = f"{folder / NAMES_FILE} cannot be read: {error.strerror}"
        raise ConfigError(what, hint=_HINT) from error
    except NO_DOCUMENT as error:
        raise ConfigError(f"{folder / NAMES_FILE} is damaged: {error}", hint=_HINT) from error


def _names(folder: Path, result: Result | None, records: Records) -> Names:
    names = read_names(folder)
    if names.slots:
        return names
    return msgspec.structs.replace(names, slots=(_one_slot(result, records),))


def _one_slot(result: Result | None, records: Records) -> Slot:
    """Without names: memory from 0, as large as the result says, or as the journal reaches."""
    reached = 0
    if len(records):
        reached = int((records["gpa"] + records["pages"].astype("u8") * PAGE_SIZE).max())
    said = result.memory_bytes if result is not None else 0
    return Slot(0, 0, max(said, reached))
