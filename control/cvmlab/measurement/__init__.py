# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest will report of its launch, computed from files: MRTD, RTMRs of a log, SNP launch digests."""
