# SPDX-License-Identifier: GPL-2.0-or-later
"""The recipes of guest-images/images.toml: which kernel an image has, and what is loaded in it."""

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path

import msgspec

from cvmlab.choices import choose
from cvmlab.debsources import Suite
from cvmlab.errors import ConfigError
from cvmlab.initramfs import guest_images_dir
from cvmlab.kernel_image import AARCH64, X86_64
from cvmlab.ranges import parse_size


_FILE = "images.toml"
_DEBIAN_ARCHES = {X86_64: "amd64", AARCH64: "arm64"}
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")
_MIN_DISK_BYTES = 512 << 20
_EDIT_HINT = "the head of guest-images/images.toml says what an image may have"


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An image; the fields are described at the head of images.toml."""

    kernel: str
    suite: str
    description: str = ""
    arch: str = X86_64
    modules: tuple[str, ...] = ()
    append: str = ""

    @property
    def debian_arch(self) -> str:
        """What Debian calls the architecture."""
        return _DEBIAN_ARCHES[self.arch]


class BootLoader(StrEnum):
    """What the firmware starts from a disk."""

    GRUB = "grub"
    UKI = "uki"


class DiskRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A disk with an installed system; the fields are described in images.toml."""

    suite: str
    boot: BootLoader
    kernel: str = "linux-image-cloud-amd64"
    packages: tuple[str, ...] = ()
    size: str = "1G"
    append: str = ""
    description: str = ""

    @property
    def size_bytes(self) -> int:
        """The size of the disk, partition table and all."""
        return parse_size(self.size)


class Recipes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in the file: ``default`` names one of ``image``; no name is in both tables."""

    default: str
    image: dict[str, Recipe]
    disk: dict[str, DiskRecipe] = {}

    def find(self, name: str | None) -> Recipe | DiskRecipe:
        """Return the recipe *name*, or the default; raise ConfigError with a suggestion."""
        known: dict[str, Recipe | DiskRecipe] = {**self.image, **self.disk}
        return known[choose("image", name or self.default, known)]


def load(path: Path | None = None) -> Recipes:
    """Read and check the recipes; raise ConfigError for the first thing that is wrong."""
    file = path or guest_images_dir() / _FILE
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"image recipes {file} cannot be read: {error}") from error
    try:
        return parse(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: {error}", hint=_EDIT_HINT) from error
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.message}", hint=error.hint) from error


def parse(document: Mapping[str, object]) -> Recipes:
    """Check what images.toml contains."""
    try:
        recipes = msgspec.convert(document, Recipes)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error), hint=_suggestion(str(error))) from error
    choose("default", recipes.default, recipes.image)
    for recipe in recipes.image.values():
        Suite.parse(recipe.suite)
        choose("arch", recipe.arch, _DEBIAN_ARCHES)
    for name, disk in recipes.disk.items():
        _require_disk(name, disk, recipes)
    return recipes


def _require_disk(name: str, disk: DiskRecipe, recipes: Recipes) -> None:
    Suite.parse(disk.suite)
    if name in recipes.image:
        raise ConfigError(f"{name} is an image and a disk", hint="give one another name")
    if disk.size_bytes < _MIN_DISK_BYTES:
        raise ConfigError(
            f"{name}: a system does not fit on a disk of {disk.size}",
            hint="give it 512M or more; what is not used takes no space",
        )


def _suggestion(problem: str) -> str:
    known = {
        field.name
        for kind in (Recipe, DiskRecipe, Recipes)
        for field in msgspec.structs.fields(kind)
    }
    match = _UNKNOWN_FIELD.search(problem)
    near = get_close_matches(match.group(1), sorted(known), n=1) if match else []
    return f"did you mean {near[0]}?" if near else _EDIT_HINT
