# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots that are recorded and executed again: their folders, and moments to stop at."""
