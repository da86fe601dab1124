# SPDX-License-Identifier: GPL-2.0-or-later
"""The ID block that only the guest of a BootSpec fits."""

from typing import Final

from cvmlab.attestation.id_blocks import IdBlock
from cvmlab.base.errors import ConfigError
from cvmlab.machine.spec import BootSpec
from cvmlab.measurement.prediction import predict
from cvmlab.profiles.guest_object import given_properties


_DEFAULT_POLICY: Final = 0x30000  # of QEMU's sev-snp-guest: SMT, and a bit that must be one
_DEBUG: Final = 1 << 19
_MAX_POLICY: Final = (1 << 64) - 1


def id_block_of(spec: BootSpec) -> IdBlock:
    """Return the block; raise ConfigError if no such guest is launched by SNP, or none can be told."""
    measured = next((one for one in predict(spec) if one.name == "measurement"), None)
    if measured is None:
        raise ConfigError("only an SNP guest has an ID block", hint="--coco sev-snp")
    if measured.value is None:
        raise ConfigError(f"there is no launch digest to put into it: {measured.note}")
    return IdBlock(digest=measured.value, policy=_policy(spec))


def _policy(spec: BootSpec) -> int:
    given = given_properties(spec.guest_options).get("policy")
    policy = _DEFAULT_POLICY if given is None else _number(given)
    return policy | (_DEBUG if spec.debuggable else 0)


def _number(given: str) -> int:
    try:
        number = int(given, 0)
    except ValueError:
        number = -1
    if not 0 <= number <= _MAX_POLICY:
        raise ConfigError(
            f"--coco-option policy={given} is no number of 64 bits",
            hint=f"such as policy={_DEFAULT_POLICY:#x}, which is the default",
        )
    return number
