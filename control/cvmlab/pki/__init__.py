# SPDX-License-Identifier: GPL-2.0-or-later
"""The test PKI: keys and certificates of the kinds that vendors have, all from one seed."""
