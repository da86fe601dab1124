# SPDX-License-Identifier: GPL-2.0-or-later
"""The vendors' web services for verifiers, played for the test PKI: a PCCS and a KDS on loopback."""
