# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps of a VM's memory that crash, drgn and makedumpfile read, and debuggers on a live VM."""
