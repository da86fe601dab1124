# SPDX-License-Identifier: GPL-2.0-or-later
"""All authorities of a test PKI, and what they issue for a platform.  Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from cvmlab.pki import amd_chain, cca_chain, intel_chain
from cvmlab.pki.amd_chain import AmdChain, AmdKeys
from cvmlab.pki.cca_chain import CcaChain
from cvmlab.pki.certificates import Identity
from cvmlab.pki.derived import Seed
from cvmlab.pki.intel_chain import IntelChain
from cvmlab.pki.platforms import SnpPlatform, TdxPlatform


@dataclass(frozen=True, slots=True)
class Pki:
    """The roots of each vendor's kind; ``snp`` has a chain for each product."""

    seed: Seed
    tdx: IntelChain
    snp: Mapping[str, AmdChain]
    cca: CcaChain

    @classmethod
    def of(cls, seed: Seed, keys: AmdKeys | None = None) -> Self:
        """Return the PKI of *seed*; making its RSA keys takes seconds, unless they are given."""
        made = amd_chain.amd_keys(seed) if keys is None else keys
        return cls(
            seed,
            intel_chain.intel_chain(seed),
            amd_chain.amd_chains(seed, made),
            cca_chain.cca_chain(seed),
        )

    def pck(self, platform: TdxPlatform) -> Identity:
        """Return the PCK certificate of a platform."""
        return intel_chain.pck(self.seed, self.tdx, platform)

    def vcek(self, platform: SnpPlatform) -> Identity:
        """Return the VCEK certificate of a chip."""
        return amd_chain.vcek(self.seed, self.snp[platform.product], platform)

    def vlek(self, platform: SnpPlatform) -> Identity:
        """Return the VLEK certificate of a cloud provider."""
        return amd_chain.vlek(self.seed, self.snp[platform.product], platform)
