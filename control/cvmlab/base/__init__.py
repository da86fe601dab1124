# SPDX-License-Identifier: GPL-2.0-or-later
"""What all packages use: errors, option words, paths, progress, locks, and commands with a log."""
