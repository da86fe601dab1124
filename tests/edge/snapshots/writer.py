# SPDX-License-Identifier: GPL-2.0-or-later
"""A program that replaces a snapshot again and again, until it is killed."""

import sys
from itertools import count
from pathlib import Path

from cvmlab.snapshots.manifest import MANIFEST
from cvmlab.snapshots.snapshot_folder import being_written, store_file
from tests.edge.snapshots.small_snapshot import FILES, manifest_of


def main() -> None:
    place = Path(sys.argv[1])
    for number in count(1):
        with being_written(place) as folder:
            for name in FILES:
                (folder / name).write_bytes(f"{number} {name} ".encode() * 5000)
            stored = {name: store_file(folder, name, compress=False) for name in FILES}
            (folder / MANIFEST).write_bytes(manifest_of(stored).encode())
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
