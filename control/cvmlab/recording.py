# SPDX-License-Identifier: GPL-2.0-or-later
"""A run folder as it can be looked at after the run: result, journal, and what its numbers mean."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from cvmlab.errors import ConfigError
from cvmlab.journal import JournalFile, Records
from cvmlab.ranges import PAGE_SIZE
from cvmlab.replay import Slot
from cvmlab.result import Result, from_json
from cvmlab.timeline import Names


NAMES_FILE = "names.json"
_HINT = "give the folder of a run: `cvmlab boot --run-dir DIR` or `--keep` leaves one"


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One run; ``result`` is None while it goes on, or if its controller was killed."""

    title: str
    result: Result | None
    records: Records
    names: Names


def load(folder: Path) -> Recording:
    """Read a run folder; raise ConfigError if it is none."""
    if not (folder / "events.bin").is_file():
        raise ConfigError(f"{folder} has no events.bin", hint=_HINT)
    result = None
    if (folder / "result.json").is_file():
        result = from_json((folder / "result.json").read_bytes())
    journal = JournalFile(folder / "events.bin")
    journal.require_sense()
    records = journal.records
    title = folder.absolute().name
    return Recording(title, result, records, _names(folder, result, records))


def encode_names(names: Names) -> bytes:
    """Return the content of ``names.json``."""
    return msgspec.json.encode(names)


def _names(folder: Path, result: Result | None, records: Records) -> Names:
    try:
        return msgspec.json.decode((folder / NAMES_FILE).read_bytes(), type=Names)
    except FileNotFoundError:
        return Names(slots=(_one_slot(result, records),))
    except msgspec.DecodeError as error:
        raise ConfigError(f"{folder / NAMES_FILE} is damaged: {error}", hint=_HINT) from error


def _one_slot(result: Result | None, records: Records) -> Slot:
    """Without names: memory from 0, as large as said, or as far as the journal reaches."""
    reached = 0
    if len(records):
        reached = int((records["gpa"] + records["pages"].astype("u8") * PAGE_SIZE).max())
    said = result.memory_bytes if result is not None else 0
    return Slot(0, 0, max(said, reached))
