# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache folder, and the checkout that cvmlab runs from.

Standard library only, because bootstrap.py runs before any dependency is installed.
"""

import os
from pathlib import Path


PACKAGE = Path(__file__).resolve().parents[1]  # the folder of the package cvmlab


def cache_dir() -> Path:
    """Return ``$XDG_CACHE_HOME/cvmlab``; it may not exist yet.

    A relative XDG_CACHE_HOME is ignored, as the XDG base directory specification asks.
    """
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = configured if configured.is_absolute() else Path.home() / ".cache"
    return base / "cvmlab"


def checkout_dir() -> Path | None:
    """Return the root of the checkout this package runs from; None for an installed wheel."""
    root = PACKAGE.parents[1]
    return root if PACKAGE.parent.name == "control" and (root / "tox.ini").is_file() else None
