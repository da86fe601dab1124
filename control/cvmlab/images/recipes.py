# SPDX-License-Identifier: GPL-2.0-or-later
"""The recipes in guest-images/images.toml: kernels and modules of images, packages of disks."""

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path

import msgspec

from cvmlab.base.choices import choose
from cvmlab.base.errors import ConfigError
from cvmlab.base.resources import guest_images_dir
from cvmlab.debian.sources import Suite
from cvmlab.memory.ranges import parse_size
from cvmlab.profiles.architecture import ARCHITECTURES, DEFAULT_ARCHITECTURE, Architecture


_FILE = "images.toml"
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")
_MIN_DISK_BYTES = 512 << 20
_EDIT_HINT = "the top of guest-images/images.toml describes the fields of an image"


class ImageRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An image; the top of images.toml describes the fields."""

    kernel: str
    suite: str
    description: str = ""
    arch: str = DEFAULT_ARCHITECTURE.name
    modules: tuple[str, ...] = ()
    append: str = ""

    @property
    def architecture(self) -> Architecture:
        """The row that ``arch`` names."""
        return ARCHITECTURES.choose("arch", self.arch)


class BootLoader(StrEnum):
    """The program that the firmware starts from a disk."""

    GRUB = "grub"
    UKI = "uki"


class DiskRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A disk with an installed system; images.toml describes the fields."""

    suite: str
    boot: BootLoader
    kernel: str = f"linux-image-cloud-{DEFAULT_ARCHITECTURE.debian}"
    packages: tuple[str, ...] = ()
    size: str = "1G"
    append: str = ""
    description: str = ""

    @property
    def architecture(self) -> Architecture:
        """The architecture of all disks so far."""
        return DEFAULT_ARCHITECTURE

    @property
    def size_bytes(self) -> int:
        """The size of the whole disk, including the partition table."""
        return parse_size(self.size)


class Recipes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file: ``default`` names one of ``image``; no name is in both tables.

    Of another architecture than that of ``default``, the first image is the default.
    """

    default: str
    image: dict[str, ImageRecipe]
    disk: dict[str, DiskRecipe] = {}

    def find(
        self, name: str | None, architecture: Architecture | None = None
    ) -> ImageRecipe | DiskRecipe:
        """Return the recipe *name*, or the default of *architecture*; raise ConfigError with a suggestion."""
        known: dict[str, ImageRecipe | DiskRecipe] = {**self.image, **self.disk}
        return known[choose("image", name or self.default_of(architecture), known)]

    def default_of(self, architecture: Architecture | None) -> str:
        """Return the image to boot if none is named: ``default``, or the first one of *architecture*."""
        if architecture is None or self.image[self.default].arch == architecture.name:
            return self.default
        names = (name for name, image in self.image.items() if image.arch == architecture.name)
        found = next(names, None)
        if found is None:
            raise ConfigError(
                f"there is no image for {architecture.name}", hint="give a kernel with --kernel"
            )
        return found


def load(path: Path | None = None) -> Recipes:
    """Read and check the recipes; raise ConfigError for the first mistake."""
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
    """Return the checked recipes of a parsed images.toml."""
    try:
        recipes = msgspec.convert(document, Recipes)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error), hint=_suggestion(str(error))) from error
    choose("default", recipes.default, recipes.image)
    for recipe in recipes.image.values():
        Suite.parse(recipe.suite)
        ARCHITECTURES.choose("arch", recipe.arch)
    for name, disk in recipes.disk.items():
        _require_disk(name, disk, recipes)
    return recipes


def _require_disk(name: str, disk: DiskRecipe, recipes: Recipes) -> None:
    Suite.parse(disk.suite)
    if name in recipes.image:
        raise ConfigError(
            f"{name} is the name of an image and of a disk", hint="rename one of them"
        )
    if disk.size_bytes < _MIN_DISK_BYTES:
        raise ConfigError(
            f"{name}: a disk of {disk.size} is too small for a system",
            hint="use 512M or more; unused space takes no room on the host",
        )


def _suggestion(problem: str) -> str:
    known = {
        field.name
        for kind in (ImageRecipe, DiskRecipe, Recipes)
        for field in msgspec.structs.fields(kind)
    }
    match = _UNKNOWN_FIELD.search(problem)
    near = get_close_matches(match.group(1), sorted(known), n=1) if match else []
    return f"did you mean {near[0]}?" if near else _EDIT_HINT
