"""What feature caches have in common: a run of layers adds something to the residual stream, which is kept or used.

All are layer policies (cache/layer_plan.py): they decide in integers before a pass, and what they measure in one pass
decides about a later one, so that nothing waits for a device. They look at passes whose frames stand at one level
(schedulers/serial.py); passes that write the memory always compute every layer's keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from cache.features.facts import Facts
from cache.layer_plan import EVERY, LayerPlan, LayerPolicy, Left, Tap
from cache.types import Pass, Row, Slots

NEAR = 5.0
"""Timesteps between levels that count as the same: of a video, the level follows the motion."""


@dataclass(frozen=True, slots=True)
class FeatureCache(LayerPolicy):
    """Layers are computed where `computes` says so, and what they add is used again elsewhere.

    Attributes:
        levels: of a chunk's passes, falling; a chunk of video may begin between them.
        chunk: latent frames.
    """

    levels: tuple[float, ...]
    chunk: int

    @classmethod
    def by_profile(cls) -> bool:
        """Whether it goes by what `rivulet profile` found out about the model."""
        return cls.of.__func__ is not FeatureCache.of.__func__

    @classmethod
    def of(cls, levels: tuple[float, ...], chunk: int, facts: Facts | None) -> Self:
        """The policy as it serves a film.

        Args:
            levels: of a chunk's passes, falling.
            chunk: latent frames.
            facts: what is known of the model from `rivulet profile`; None if it never was.

        Raises:
            ValueError: it goes by a profile, and there is none that fits.
        """
        return cls(levels, chunk)

    @property
    def chunks(self) -> int:
        return 1

    def plan(self, work: Pass, row: Row, slots: Slots, left: Left) -> LayerPlan:
        if work.kind == "clean":
            return self.remember(row, left)
        step = len(left.of(row.frames))
        if work.kind != "denoise" or row.commit or len({*row.levels}) > 1 or step >= len(self.levels):
            return EVERY
        return self.denoise(row, step, left)

    def denoise(self, row: Row, step: int, left: Left) -> LayerPlan:
        """The plan of a denoising pass that leaves no keys, number `step` of its chunk."""
        return EVERY

    def remember(self, row: Row, left: Left) -> LayerPlan:
        """The plan of the pass that writes the memory: it leaves the keys of all layers."""
        return EVERY


def kept(part: range, buffer: int) -> tuple[Tap, Tap]:
    """Keep what a run of layers adds."""
    return Tap(part.start, buffer, "keep"), Tap(part.stop, buffer, "keep_change")


def in_order(*taps: Tap) -> tuple[Tap, ...]:
    """By layer; at one layer in the order given."""
    return tuple(sorted(taps, key=lambda tap: tap.layer))


def middle(layers: int, first: int, last: int) -> range:
    """The layers between the first and the last so many, one at least."""
    start = min(first, layers - 1)
    return range(start, max(start + 1, layers - last))


def extrapolation(points: Sequence[float], at: float) -> tuple[float, ...]:
    """Weights of the values at `points` in the polynomial through them, taken at `at` (Lagrange)."""
    weights: list[float] = []
    for i, own in enumerate(points):
        weight = 1.0
        for j, other in enumerate(points):
            if i != j:
                weight *= (at - other) / (own - other)
        weights.append(weight)
    return tuple(weights)
