# SPDX-License-Identifier: GPL-2.0-or-later
"""One result from the folders of several shards."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from cvmlab.base.errors import ConfigError
from cvmlab.matrix.folder import known, read_record
from cvmlab.matrix.running import total
from cvmlab.matrix.verdict import CellResult, MatrixResult, worse


def merged(folders: Sequence[Path]) -> MatrixResult:
    """Return all cells of the document: what no folder has is missing, and that is a failure.

    Of a cell that was run twice the worse run counts.  Raises ConfigError for folders of different
    documents.
    """
    records = [read_record(folder) for folder in folders]
    first = records[0]
    for folder, record in zip(folders, records, strict=True):
        if record.digest != first.digest:
            raise ConfigError(
                f"{folder} and {folders[0]} are results of different matrices",
                hint="all shards need the same matrix file, guests and cvmlab version",
            )
    cells: dict[int, CellResult] = {}
    for folder in folders:
        for number, cell in known(folder).items():
            cells[number] = worse(cells[number], cell) if number in cells else cell
    everything = [cell.number for cell in first.cells]
    result = total(first, cells, everything)
    return msgspec.structs.replace(result, shards=tuple(sorted(r.shard for r in records)))
