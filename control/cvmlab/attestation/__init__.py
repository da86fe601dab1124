# SPDX-License-Identifier: GPL-2.0-or-later
"""The services that answer a guest's request for attestation: TDX quotes, SNP reports."""
