# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest memory: page states, ranges, the page-state table, the event ring, the journal, maps."""
