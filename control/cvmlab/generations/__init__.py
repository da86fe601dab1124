# SPDX-License-Identifier: GPL-2.0-or-later
"""Every generation of restricted memory, emulated in one engine with its rules as data."""
