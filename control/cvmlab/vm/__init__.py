# SPDX-License-Identifier: GPL-2.0-or-later
"""A running VM, owned by one context: QEMU's process, QMP, console, agent, run folder."""
