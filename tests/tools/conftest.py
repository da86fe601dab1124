# SPDX-License-Identifier: GPL-2.0-or-later
"""All tests here need programs that are installed for them."""

from pathlib import Path

import pytest


_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.tools)
