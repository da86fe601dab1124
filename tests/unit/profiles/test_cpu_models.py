# SPDX-License-Identifier: GPL-2.0-or-later
"""Processors of --cpu: each profile with a guest object has a default, and may have others."""

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.machine.command_line import EXAMPLE_FDS, Channels, command_line
from cvmlab.machine.spec import BootSpec
from cvmlab.profiles.architecture import X86_64
from cvmlab.profiles.cpu_models import models, names_for
from cvmlab.profiles.profile import Profile
from cvmlab.profiles.profile_rows import PROFILES
from tests.guest_tables import TECHNOLOGIES, tables


def cpu_of(tmp_path_factory: pytest.TempPathFactory, coco: str, cpu: str | None) -> str:
    """Return what QEMU's -cpu gets."""
    folder = tmp_path_factory.mktemp("run")
    argv = command_line(
        folder / "qemu", BootSpec(coco=coco, cpu=cpu), Channels.example(folder), EXAMPLE_FDS
    )
    return argv[argv.index("-cpu") + 1]


def test_each_row_of_the_tables_is_a_model() -> None:
    rows = [row for technology in TECHNOLOGIES for row in tables(technology)["cpu-model"]]
    assert sorted(models()) == sorted(row["product"] for row in rows)
    for row in rows:
        assert set(row["profiles"]) <= set(PROFILES.names)


@pytest.mark.parametrize("profile", tuple(PROFILES), ids=lambda row: row.name)
def test_a_profile_with_a_guest_object_has_a_model_that_fits(profile: Profile) -> None:
    has_models = profile.guest_object is not None and profile.architectures == (X86_64.name,)
    assert (profile.cpu_model is not None) == has_models
    if profile.cpu_model is not None:
        assert profile.cpu_model in names_for(profile)


@pytest.mark.fault("F19")
@pytest.mark.parametrize(
    ("coco", "cpu", "begins"),
    [
        ("tdx", None, "SapphireRapids-v3,avx512f=off,"),
        ("sev", None, "EPYC-Milan-v2,"),
        ("sev-es", None, "EPYC-Milan-v2,"),
        ("sev-snp", None, "EPYC-Genoa-v1,"),
        ("sev-snp", "turin", "EPYC-Genoa-v1,family=26,"),
        ("sev-snp", "milan", "EPYC-Milan-v2,"),
        ("tdx", "max", "max"),
        ("tdx", "Denverton,rdrand=on", "Denverton,rdrand=on"),
        ("generic", None, "max"),
        ("generic", "milan", "EPYC-Milan-v2,"),
    ],
)
def test_what_a_guest_sees(
    tmp_path_factory: pytest.TempPathFactory, coco: str, cpu: str | None, begins: str
) -> None:
    assert cpu_of(tmp_path_factory, coco, cpu).startswith(begins)


@pytest.mark.parametrize(
    ("coco", "cpu", "fits"),
    [("tdx", "milan", "sapphire-rapids"), ("sev", "sapphire-rapids", "milan, genoa or turin")],
)
def test_a_processor_of_another_vendor_is_refused(coco: str, cpu: str, fits: str) -> None:
    with pytest.raises(ConfigError, match=f"--cpu {cpu} is no processor for profile {coco}") as at:
        BootSpec(coco=coco, cpu=cpu).validate()
    assert fits in (at.value.hint or "")
