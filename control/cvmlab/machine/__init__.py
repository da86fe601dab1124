# SPDX-License-Identifier: GPL-2.0-or-later
"""What to boot, as a value, and the QEMU command line that follows from it."""
