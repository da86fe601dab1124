# SPDX-License-Identifier: GPL-2.0-or-later
"""The VM's side of restricted memory: KVM, memslots, guest accesses, exits."""
