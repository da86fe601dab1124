# SPDX-License-Identifier: GPL-2.0-or-later
"""Where cvmlab keeps what it made, and which checkout it runs from.

Standard library only: bootstrap.py runs before anything else is installed.
"""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return ``$XDG_CACHE_HOME/cvmlab``; it may not exist yet.

    A relative XDG_CACHE_HOME is ignored, as the XDG base directory specification asks.
    """
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = configured if configured.is_absolute() else Path.home() / ".cache"
    return base / "cvmlab"


def checkout_dir() -> Path | None:
    """Return the root of the checkout this package runs from; None for an installed wheel."""
    package = Path(__file__).resolve().parent
    root = package.parents[1]
    return root if package.parent.name == "control" and (root / "tox.ini").is_file() else None
