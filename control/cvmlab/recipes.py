# SPDX-License-Identifier: GPL-2.0-or-later
"""The recipes of guest-images/images.toml: which kernel an image has, and what is loaded in it."""

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

import msgspec

from cvmlab.choices import choose
from cvmlab.debsources import Suite
from cvmlab.errors import ConfigError
from cvmlab.initramfs import guest_images_dir
from cvmlab.kernel_image import AARCH64, X86_64


_FILE = "images.toml"
_DEBIAN_ARCHES = {X86_64: "amd64", AARCH64: "arm64"}
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")
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


class Recipes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in the file: ``default`` names one of ``image``."""

    default: str
    image: dict[str, Recipe]

    def find(self, name: str | None) -> Recipe:
        """Return the recipe *name*, or the default; raise ConfigError with a suggestion."""
        return self.image[choose("image", name or self.default, self.image)]


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
    return recipes


def _suggestion(problem: str) -> str:
    known = {field.name for kind in (Recipe, Recipes) for field in msgspec.structs.fields(kind)}
    match = _UNKNOWN_FIELD.search(problem)
    near = get_close_matches(match.group(1), sorted(known), n=1) if match else []
    return f"did you mean {near[0]}?" if near else _EDIT_HINT
