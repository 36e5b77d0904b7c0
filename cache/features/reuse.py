"""What feature caches have in common: a run of layers adds something to the residual stream, which is kept or used.

All are layer policies (cache/layer_plan.py): they decide in integers before a pass, and what they measure in one pass
decides about a later one, so that nothing waits for a device. They look at passes whose frames stand at one level
(schedulers/serial.py); passes that write the memory always compute every layer's keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cache.layer_plan import EVERY, LayerPlan, LayerPolicy, Left, Tap
from cache.types import Pass, Row, Slots


@dataclass(frozen=True, slots=True)
class FeatureCache(LayerPolicy):
    """Layers are computed where `computes` says so, and what they add is used again elsewhere.

    Attributes:
        levels: of a chunk's passes, falling.
        chunk: latent frames.
    """

    levels: tuple[float, ...]
    chunk: int

    @property
    def chunks(self) -> int:
        return 1

    def plan(self, work: Pass, row: Row, slots: Slots, left: Left) -> LayerPlan:
        if work.kind == "clean":
            return self.remember(row, left)
        if work.kind != "denoise" or row.commit or len({*row.levels}) > 1 or row.levels[0] not in self.levels:
            return EVERY
        return self.denoise(row, len(left.of(row.frames)), left)

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
