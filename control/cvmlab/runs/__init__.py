# SPDX-License-Identifier: GPL-2.0-or-later
"""Run folders: what a VM writes, by which other terminals find it, and what earlier boots have left."""
