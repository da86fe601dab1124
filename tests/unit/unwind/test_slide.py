# SPDX-License-Identifier: GPL-2.0-or-later
"""KASLR's slide is told by votes of return addresses, or not at all."""

import numpy as np
import pytest

from cvmlab.profiles.architecture import AARCH64, X86_64
from cvmlab.unwind import slide


RULES = X86_64.symbols
TEXT = 0xFFFF_FFFF_8100_0000
RETURNS = np.unique(np.random.default_rng(3).integers(0, 24 << 20, 50_000)).astype(
    np.uint64
) + np.uint64(TEXT)


@pytest.mark.fault("F21")
@pytest.mark.parametrize("distance", [0, 2 << 20, 0x1E20_0000, (1 << 30) - (2 << 20)])
def test_the_slide_is_found_among_words_that_are_no_returns(distance: int) -> None:
    random = np.random.default_rng(distance % 1000)
    true = random.choice(RETURNS, 40) + np.uint64(distance)
    noise = random.integers(0, 1 << 30, 60).astype(np.uint64) + np.uint64(TEXT)

    found = slide.find([*true.tolist(), *noise.tolist()], RETURNS, RULES)

    assert found is not None
    assert found.distance == distance
    assert found.votes >= 40


def test_a_range_of_millions_of_slides_is_searched() -> None:
    rules = AARCH64.symbols
    linked = np.arange(0x100, 0x4000_0000, 0x1_2344, dtype=np.uint64) + np.uint64(
        rules.kernel_space
    )
    distance = 12345 * rules.kaslr_step + rules.kaslr_range // 2
    words = [int(address) + distance for address in linked[:50:7]]
    found = slide.find(words, linked, rules)
    assert found is not None
    assert (found.distance, found.votes) == (distance, 8)


def test_noise_alone_has_no_slide() -> None:
    noise = np.random.default_rng(1).integers(0, 1 << 30, 300).astype(np.uint64) + np.uint64(TEXT)
    assert slide.find(noise.tolist(), RETURNS, RULES) is None
    assert slide.find([], RETURNS, RULES) is None
    assert slide.find([1, 2, 3], RETURNS[:0], RULES) is None
    assert slide.find([0, 1, 2**64 - 1], RETURNS, RULES) is None


def test_few_words_are_not_enough() -> None:
    words = (RETURNS[:3] + np.uint64(4 << 20)).tolist()
    assert slide.find(words, RETURNS, RULES) is None
