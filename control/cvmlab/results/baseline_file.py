# SPDX-License-Identifier: GPL-2.0-or-later
"""Baseline files on disk: JSON, or TOML that somebody has written."""

import json
import tomllib
from pathlib import Path

from cvmlab.base.documents import NO_DOCUMENT, text_of
from cvmlab.base.errors import ConfigError
from cvmlab.results.baselines import Baselines, parse, to_json


def load(path: Path) -> Baselines:
    """Read a file; raise ConfigError."""
    try:
        text = text_of(path)
        raw = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise ConfigError(
            f"baseline {path} cannot be read: {error.strerror}",
            hint=f"`cvmlab baseline update {path} RESULT.json` makes it",
        ) from error
    except NO_DOCUMENT as error:
        raise ConfigError(f"baseline {path} is neither JSON nor TOML: {error}") from error
    return parse(raw, str(path))


def save(path: Path, baselines: Baselines) -> None:
    """Write a file whole; raise ConfigError."""
    if path.suffix == ".toml":
        raise ConfigError(
            f"baseline {path}: only JSON is written", hint="give it a name that ends in .json"
        )
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_text(to_json(baselines), encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise ConfigError(f"baseline {path} cannot be written: {error.strerror}") from error
