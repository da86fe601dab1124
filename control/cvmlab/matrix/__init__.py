# SPDX-License-Identifier: GPL-2.0-or-later
"""Running a matrix: its document, its folder, its cells here or on a cluster."""
