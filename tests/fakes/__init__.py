# SPDX-License-Identifier: GPL-2.0-or-later
"""Peers that behave, and misbehave, as told."""
