# SPDX-License-Identifier: GPL-2.0-or-later
"""``cvmlab top``: a running VM's memory, live, in a terminal."""
