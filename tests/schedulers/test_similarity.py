"""The similarity filter: what it takes for a change, and how often it skips (T20)."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from schedulers.changes import BLOCK, change
from schedulers.noise import Address, uniform
from schedulers.similarity import Change, SimilarityFilter

Pixels = NDArray[np.uint8]
ROOM = np.random.default_rng(5).integers(40, 200, (96, 144, 3), np.uint8)


def with_block(side: int, amount: int) -> Pixels:
    """The room with something of this size in it."""
    frames = np.repeat(ROOM[None], 4, axis=0)
    frames[2, 32 : 32 + side, 64 : 64 + side] += np.uint8(amount)
    return frames


def test_identical_frames_are_all_skipped_but_for_those_that_must_not_be() -> None:
    policy, skipped, run = SimilarityFilter(most=7), 0, list[bool]()
    for number in range(400):
        changed = change(ROOM, np.repeat(ROOM[None], 4, axis=0))
        assert (changed.most, changed.quiet) == (0, 0)
        assert changed.cosine == pytest.approx(1)
        skips = policy.skips(policy.probability(changed, 0.0), skipped, uniform(Address(0, 0, number, 0.0, "skip")))
        skipped = skipped + 1 if skips else 0
        run.append(skips)
    assert run[:16] == ([True] * 7 + [False]) * 2
    assert sum(run) == 350


def test_frames_of_noise_are_never_skipped() -> None:
    policy, generator, quiet = SimilarityFilter(), np.random.default_rng(0), ()
    before = ROOM
    for _ in range(40):
        frames = generator.integers(0, 255, (4, *ROOM.shape), np.uint8)
        changed = change(before, frames)
        quiet = (*quiet, changed.quiet)
        assert policy.probability(changed, policy.floor(quiet)) == 0.0
        before = frames[-1]
    assert policy.floor(quiet) == policy.noise, "a film that moves everywhere is not a noisy sensor"


def test_a_small_thing_that_moves_in_a_still_room_is_not_skipped() -> None:
    policy = SimilarityFilter()
    changed = change(ROOM, with_block(BLOCK, 40))
    assert changed.cosine > 0.95, "as a whole the pictures are alike"
    assert policy.probability(changed, policy.floor((changed.quiet,))) < 0.1
    assert policy.probability(change(ROOM, with_block(2 * BLOCK, 40)), 0.0) == 0.0
    assert policy.probability(change(ROOM, with_block(2 * BLOCK, 1)), 0.0) > 0.85


def test_what_the_sensor_adds_everywhere_is_taken_off() -> None:
    generator, policy = np.random.default_rng(1), SimilarityFilter()
    noisy = ROOM[None].astype(float) + generator.normal(0, 9, (4, *ROOM.shape))
    changed = change(ROOM, noisy.clip(0, 255).astype(np.uint8))
    assert policy.probability(changed, 0.0) < 0.65
    assert policy.probability(changed, policy.floor((changed.quiet,) * 5)) > 0.85


@pytest.mark.parametrize("most", [0.0, 0.01, 0.025, 0.039])
def test_it_skips_as_often_as_it_says(most: float) -> None:
    """Within three standard deviations over 10^4 draws."""
    policy, count = SimilarityFilter(most=10**9), 10**4
    probability = policy.probability(Change(most, 0.0, 1.0), 0.0)
    assert probability == pytest.approx(1 - most / 0.04)
    drawn = [uniform(Address(1, 0, number, 0.0, "skip")) for number in range(count)]
    skipped = sum(policy.skips(probability, 0, number) for number in drawn)
    assert abs(skipped - count * probability) <= 3 * (count * probability * (1 - probability)) ** 0.5
    assert min(drawn) >= 0
    assert max(drawn) < 1


def test_sizes_that_no_block_divides_are_averaged_over_what_there_is() -> None:
    small = np.zeros((7, 41, 3), np.uint8)
    frames = np.repeat(small[None], 2, axis=0)
    frames[1, :, 32:40] = 255  # the last block of the halved picture is 4 columns wide
    assert change(small, frames).most == pytest.approx(1.0)
    assert change(small, frames[:1]).most == 0.0


def test_a_filter_that_cannot_be_is_refused() -> None:
    for wrong in ({"limit": 0.0}, {"most": 0}, {"flush": 0}, {"noise": -0.1}):
        with pytest.raises(ValueError, match="cannot be like this"):
            SimilarityFilter(**wrong)
