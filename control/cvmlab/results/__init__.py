# SPDX-License-Identifier: GPL-2.0-or-later
"""result.json, and everything that is computed from a journal: phases, summaries, budgets, baselines, costs."""
