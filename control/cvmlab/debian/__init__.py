# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian archive: installing with apt, fetching packages of a suite, and a cache of made files."""
