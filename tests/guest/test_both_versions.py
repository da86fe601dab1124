# SPDX-License-Identifier: GPL-2.0-or-later
"""Every profile boots on every supported version of QEMU.

The rest of this level runs on the default version, so here are the other ones.
"""

import pytest

from cvmlab.base.errors import NoSourceError
from cvmlab.profiles.architecture import X86_64
from cvmlab.profiles.profile_rows import PROFILES
from cvmlab.qemu.build import qemu_binary
from cvmlab.qemu.versions import DEFAULT_VERSION, VERSIONS
from tests.guest.program import cvmlab


pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("state_home")]

BOOTS = [
    pytest.param(version.name, profile, firmware, id=f"{version.name}-{profile}-{firmware}")
    for version in VERSIONS
    if version is not DEFAULT_VERSION
    for firmware in ("seabios", "ovmf")
    for profile in PROFILES.where(lambda row: X86_64.name in row.architectures)
]


@pytest.mark.parametrize(("version", "profile", "firmware"), BOOTS)
def test_every_profile_boots(version: str, profile: str, firmware: str) -> None:
    try:
        qemu_binary(version)
    except NoSourceError as error:
        pytest.skip(error.message)
    words = ("--qemu-version", version, "--coco", profile, "--firmware", firmware)
    done = cvmlab("boot", "debian", *words, "--exec", "true", "--json", "-")

    assert (done.code, done.result.outcome) == (0, "ok"), done.err
    qemu = done.result.qemu
    assert qemu is not None
    assert qemu.version.startswith(f"{version}.")
    assert qemu.patch
