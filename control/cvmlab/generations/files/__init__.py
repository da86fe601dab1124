# SPDX-License-Identifier: GPL-2.0-or-later
"""The restricted file itself: pages, storage, bindings, pins, descriptors."""
