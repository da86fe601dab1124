# SPDX-License-Identifier: GPL-2.0-or-later
"""``cvmlab boot``: from the request to the plan, the run and the verdict."""
