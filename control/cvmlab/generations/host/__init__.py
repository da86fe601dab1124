# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's view: mappings in which private pages cannot be touched, and files of a running VM."""
