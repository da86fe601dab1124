# SPDX-License-Identifier: GPL-2.0-or-later
"""Who called: from a window of a guest's stack to a chain of addresses, and of names."""
