# SPDX-License-Identifier: GPL-2.0-or-later
"""Options that take one of a few words: an unknown word is an error that suggests the nearest one."""

from collections.abc import Iterable
from difflib import get_close_matches

from cvmlab.base.errors import ConfigError


def choose(option: str, word: str, known: Iterable[str]) -> str:
    """Return *word* if it is one of *known*; raise ConfigError with a suggestion."""
    words = [str(item) for item in known]
    if word in words:
        return word
    near = get_close_matches(word, words, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(
        f"{option}: there is no {word!r}", hint=f"{guess}known are {', '.join(words)}"
    )
