# SPDX-License-Identifier: GPL-2.0-or-later
"""The ID block that only the guest of a BootSpec fits."""

from typing import Final

from cvmlab.attestation.id_blocks import IdBlock
from cvmlab.base.errors import ConfigError
from cvmlab.machine.spec import BootSpec
from cvmlab.measurement.prediction import predict


_DEFAULT_POLICY: Final = 0x30000  # of QEMU's sev-snp-guest: SMT, and a bit that must be one
_DEBUG: Final = 1 << 19


def id_block_of(spec: BootSpec) -> IdBlock:
    """Return the block; raise ConfigError if no such guest is launched by SNP, or none can be told."""
    measured = next((one for one in predict(spec) if one.name == "measurement"), None)
    if measured is None:
        raise ConfigError("only an SNP guest has an ID block", hint="--coco sev-snp")
    if measured.value is None:
        raise ConfigError(f"there is no launch digest to put into it: {measured.note}")
    return IdBlock(digest=measured.value, policy=_policy(spec))


def _policy(spec: BootSpec) -> int:
    given = dict(option.split("=", 1) for option in spec.guest_options)
    try:
        policy = int(given.get("policy", str(_DEFAULT_POLICY)), 0)
    except ValueError:
        raise ConfigError(f"--coco-option policy={given['policy']} is no number") from None
    return policy | (_DEBUG if spec.debuggable else 0)
