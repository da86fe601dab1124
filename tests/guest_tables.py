# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of what a guest sees (plugin/profiles/*/*.toml), as the generator reads them."""

import importlib.util
import sys
from functools import cache
from types import ModuleType
from typing import Any

from cvmlab.base.resources import plugin_dir


PROFILES = plugin_dir() / "profiles"
GENERATOR = PROFILES / "gen-tables.py"
TECHNOLOGIES = ("tdx", "sev")
Row = dict[str, Any]


@cache
def generator_module() -> ModuleType:
    """Return the generator as a module: it is a script, and its name is none of a module."""
    spec = importlib.util.spec_from_file_location("gen_tables", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # QEMU's build takes each file there
    sys.modules[spec.name] = module  # dataclasses look there
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


@cache
def tables(technology: str) -> dict[str, list[Row]]:
    """Return the rows of a technology of ours by kind, each with its source in full."""
    generator = generator_module()
    found: dict[str, list[Row]] = generator.tables(generator.read(PROFILES / technology))
    return found
