"""Tells the two objects of a film apart, frame by frame, so that each is judged by all of its pictures.

Two objects look alike in rank: the upper one is called the first, or the left one of two side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from training.clip import APART, RELATIONS
from training.world import SPAN

ASTRAY = 0.12
"""How far an object may be from its place beside the other one, in picture sizes."""
FEWEST_TOGETHER, TOGETHER, BALANCE = 3, 0.1, 0.3
"""Two objects are a pair when both are in sight in so many frames, in this share of the film's, and when the one is
seen at least this share as often as the other: what flickers up beside an object is not its companion."""


@dataclass(frozen=True, slots=True)
class Sight:
    """One object in every pixel frame of a film, [T, ...] each.

    Attributes:
        logits: attribute (color, shape, size, pattern) -> [T, choices].
        place: [T, 2] centre of the object, 0..1, y downwards.
        present: [T] probability that the object's centre is in the picture.
        stretch: [T] width of the object over its height, 1 when it faces the viewer.
    """

    logits: dict[str, np.ndarray]
    place: np.ndarray
    present: np.ndarray
    stretch: np.ndarray

    def part(self, start: int, stop: int) -> Sight:
        """The same in some of the frames."""
        cut = slice(start, stop)
        return Sight({n: v[cut] for n, v in self.logits.items()}, self.place[cut], self.present[cut], self.stretch[cut])


def around(way: np.ndarray) -> np.ndarray:
    """Ways [..., 2] from place to place, the shorter one around the picture: what leaves it comes back."""
    return np.remainder(way + SPAN / 2, SPAN) - SPAN / 2


def _swapped(one: Sight, two: Sight, where: np.ndarray) -> tuple[Sight, Sight]:
    """Two objects [T, ...] that change places in the frames `where` [T]."""

    def mix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(where.reshape(-1, *[1] * (a.ndim - 1)), b, a)

    def blend(a: Sight, b: Sight) -> Sight:
        logits = {name: mix(a.logits[name], b.logits[name]) for name in a.logits}
        return Sight(logits, mix(a.place, b.place), mix(a.present, b.present), mix(a.stretch, b.stretch))

    return blend(one, two), blend(two, one)


def ordered(one: Sight, two: Sight) -> tuple[Sight, Sight]:
    """In every frame that shows a pair the upper or left object first, else the one that is seen better.

    Only a pair's second object is present: what is seen elsewhere is a part of the first, or nothing.
    """
    way = around(two.place - one.place)
    astray = np.stack([np.hypot(*(way - APART * np.array(place)).T) for place in RELATIONS.values()]).min(0)
    both = (one.present > 0.5) & (two.present > 0.5) & (astray < ASTRAY)
    along = np.where(np.abs(way[:, 1]) > np.abs(way[:, 0]), way[:, 1], way[:, 0])
    one, two = _swapped(one, two, np.where(both, along < 0, two.present > one.present))
    return one, replace(two, present=np.where(both, two.present, 0.0))


def choice(logits: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Mean probability [choices] of logits [T, choices] over frames that count by their share."""
    chance = np.exp(logits - logits.max(-1, keepdims=True))
    chance /= chance.sum(-1, keepdims=True)
    return (chance * share[:, None]).sum(0) / share.sum()


def weight(sight: Sight) -> np.ndarray:
    """How well an object is seen in every frame [T]."""
    return sight.present * np.clip(sight.stretch, 0.05, 1) + 1e-6


def pair_of(one: Sight, two: Sight) -> tuple[Sight, Sight, str] | None:
    """Both objects of a film and where the first is, seen from the second; None where there is only one.

    A frame that shows only one of them has it as its first: it is given to the object that it looks like.
    """
    both = two.present > 0.5
    if both.sum() < max(FEWEST_TOGETHER, TOGETHER * len(both)):
        return None
    aside, down = np.median(around(two.place - one.place)[both], axis=0)
    relation = "above" if down > aside else "left"
    alike = np.zeros(len(both))
    for name in ("color", "shape", "pattern"):
        chance = [np.log(choice(s.logits[name][both], weight(s)[both]) + 1e-3) for s in (one, two)]
        mine = np.exp(one.logits[name] - one.logits[name].max(-1, keepdims=True))
        alike += (mine / mine.sum(-1, keepdims=True)) @ (chance[0] - chance[1])
    one, two = _swapped(one, two, ~both & (alike < 0))
    seen = [(s.present > 0.5).sum() for s in (one, two)]
    return (one, two, relation) if min(seen) >= BALANCE * max(seen) else None


def track(sight: Sight) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places [T, 2] of an object, where it is seen and where it is seen as a whole [T]."""
    visible = sight.present > 0.5
    return sight.place, visible, visible & np.all((sight.place > 0) & (sight.place < 1), axis=1)


def joined_track(one: Sight, two: Sight, relation: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first object's `track`, which its companion tells where the first one is not seen as a whole."""
    place, visible, whole = track(one)
    aside, _, both = track(two)
    told = both & ~whole
    place = np.where(told[:, None], aside - APART * np.array(RELATIONS[relation]), place)
    return place, visible | told, whole | told
