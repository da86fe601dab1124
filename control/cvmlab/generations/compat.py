# SPDX-License-Identifier: GPL-2.0-or-later
"""``override`` for the Pythons before 3.12, which lack it in ``typing``."""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from typing_extensions import override as override
else:

    def override(method):
        """Mark a method that overrides one of its parent class; only the type checker reads this."""
        return method
