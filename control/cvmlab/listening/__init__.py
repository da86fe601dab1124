# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest says: its console, the kernel's log on it, its agent, what its command prints."""
