"""Two objects: both are seen, they keep their distance, and they come back together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from training.clip import APART, RELATIONS
from training.world import (
    PAIRED,
    SIZES,
    ClipSpec,
    Companion,
    positions,
    render,
    sample_spec,
    sample_switch,
)

SIDE = 96
SPEC = ClipSpec("red", "ball", "small", "left", "sea", 0.5, 0.5, 0.25, 7)


def pair(relation: str, **changes: object) -> ClipSpec:
    """A clip of two objects that its drawing would give."""
    spec = replace(SPEC, size="small", companion=Companion("blue", "star", relation), **changes)
    return replace(spec, x=0.5 - spec.companion_offset[0] / 2, y=0.5 - spec.companion_offset[1] / 2)


def test_companions_stay_whole_in_the_picture_unless_they_cross_it() -> None:
    rng = np.random.default_rng(6)
    reach = 1.06 * SIZES["small"]
    seen: set[tuple[str, str]] = set()
    for _ in range(900):
        spec = sample_spec(rng)
        if spec.companion is None:
            continue
        assert spec.motion in PAIRED
        assert spec.size == "small"
        seen.add((spec.motion, spec.companion.relation))
        along = {"left": [0], "right": [0], "up": [1], "down": [1]}.get(spec.motion, [])
        first = positions(spec, 90)
        for track in (first, first + spec.companion_offset):
            stays = np.delete(track, along, axis=1)
            assert np.ptp(stays, axis=0).max() < 1e-9  # nothing glides to its place at the beginning
            assert stays.min() > reach
            assert stays.max() < 1 - reach
    assert len(seen) == len(PAIRED) * len(RELATIONS)


def test_a_switch_to_two_objects_finds_room_for_both() -> None:
    rng = np.random.default_rng(3)
    drawn = [switch.second for switch in (sample_switch(rng, 61) for _ in range(300)) if switch.second.companion]
    assert len(drawn) > 8
    for spec in drawn:
        settled = positions(spec, 40, spec.begin + 60)
        across = 1 if spec.motion in ("left", "right") else 0
        if spec.motion not in ("still", "spin"):
            settled = settled[:, across : across + 1]
            beside = np.array(spec.companion_offset)[across : across + 1]
        else:
            beside = np.array(spec.companion_offset)
        assert min(settled.min(), (settled + beside).min()) > 0.2
        assert max(settled.max(), (settled + beside).max()) < 0.8


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("motion", PAIRED)
def test_companions_keep_their_distance_and_come_back_together(relation: str, motion: str) -> None:
    spec = pair(relation, motion=motion, scene="night", color="red")
    starts = [0, 9, 18, 27, 36, 45, 54, 64]
    changed: list[torch.Tensor] = []
    for look in (replace(spec, color="white"), replace(spec, companion=Companion("white", "star", relation))):
        film, other = (torch.cat([render([s], 1, start=t, size=SIDE)[0] for t in starts]) for s in (spec, look))
        changed.append((film - other).abs().amax(1) > 0.2)
    one, two = changed
    assert torch.equal(one[0], one[-1])  # one round takes 64 pixel frames, for both
    assert torch.equal(two[0], two[-1])
    aside = [round(SIDE * part) for part in spec.companion_offset]
    together = 0
    for first, second in zip(one, two, strict=True):
        if motion == "spin" or not all(_whole(mask) for mask in (first, second)):
            continue
        together += 1
        away = _middle(second) - _middle(first)
        assert np.abs(away - np.array(aside)).max() < 4
    assert together >= 2 or motion == "spin"
    assert np.hypot(*spec.companion_offset) == pytest.approx(APART)


def _whole(mask: torch.Tensor) -> bool:
    """Something is seen, and nothing of it at the border."""
    return bool(mask.any()) and not bool(torch.cat([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).any())


def _middle(mask: torch.Tensor) -> np.ndarray:
    """Middle (x, y) of the box around what is seen, in pixels."""
    rows, columns = mask.nonzero().numpy().T
    return np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2
