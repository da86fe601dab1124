# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin: boot confidential VMs in tests."""
