# SPDX-License-Identifier: GPL-2.0-or-later
"""One row of facts for each ``--coco`` profile and for each architecture, and what follows from a row."""
