# SPDX-License-Identifier: GPL-2.0-or-later
"""Saved VMs as files: what a snapshot holds, where snapshots are kept, how sparse files are copied."""
