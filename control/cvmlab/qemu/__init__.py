# SPDX-License-Identifier: GPL-2.0-or-later
"""Build QEMU and its firmware, find finished builds, and pack them into a wheel."""
