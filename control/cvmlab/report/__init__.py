# SPDX-License-Identifier: GPL-2.0-or-later
"""A run for people: text, HTML, trace, JUnit, and the live view."""
