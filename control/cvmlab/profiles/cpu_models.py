# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU models of ``--cpu``: processors that exist, less what QEMU's software CPU cannot do.

The data is plugin/profiles/*/cpu-models.toml; a profile's row names its default.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from cvmlab.base.errors import ConfigError
from cvmlab.base.resources import plugin_dir
from cvmlab.profiles.profile import Profile, either


@dataclass(frozen=True, slots=True)
class CpuModel:
    """One processor: ``cpu`` is what QEMU's ``-cpu`` takes."""

    name: str
    profiles: tuple[str, ...]
    cpu: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "CpuModel":
        """Return the model of a row of a document."""
        off = (f"{feature}=off" for group in row["removed"] for feature in group["features"])
        return cls(
            row["product"], tuple(row["profiles"]), ",".join([row["cpu"], *row["set"], *off])
        )


@cache
def models() -> Mapping[str, CpuModel]:
    """Return all models, by name."""
    found = {}
    for path in sorted((plugin_dir() / "profiles").glob("*/cpu-models.toml")):
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        for model in map(CpuModel.of, document["rows"]["cpu-model"]):
            found[model.name] = model
    return found


def names_for(profile: Profile) -> Iterable[str]:
    """Return the names of the models that a guest of *profile* may have."""
    return tuple(model.name for model in models().values() if profile.name in model.profiles)


def cpu(profile: Profile, asked: str | None) -> str | None:
    """Return QEMU's ``-cpu`` for a model of ours, or *asked* itself, which may be QEMU's own.

    None: neither *asked* nor the profile chooses.  Raises ConfigError for a model of ours that a
    guest of *profile* cannot have.
    """
    name = asked or profile.cpu_model
    model = models().get(name) if name else None
    if model is None:
        return name
    if profile.guest_object is not None and profile.name not in model.profiles:
        raise ConfigError(
            f"--cpu {model.name} is no processor for profile {profile.name}",
            hint=f"--cpu {either(names_for(profile))}, or QEMU's own, such as max",
        )
    return model.cpu
