# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures for the documentation, taken by the tests."""

import os
from pathlib import Path


DOCS = Path(__file__).parents[2] / "docs"


def keep(name: str, content: bytes, scratch: Path) -> Path:
    """Write a picture: into docs/ with CVMLAB_SCREENSHOTS=1, else where it does no harm."""
    folder = DOCS if os.environ.get("CVMLAB_SCREENSHOTS") == "1" else scratch
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    return path
