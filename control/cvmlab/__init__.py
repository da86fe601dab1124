# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot confidential-VM guests on QEMU's TCG and watch their memory, page by page.

Visibility and page states are emulated; nothing is encrypted and nothing is secured.
"""

__version__ = "0.1.0"
