"""The pass that writes the memory uses what the layers added in the last denoising pass, and computes only keys.

Clean memory takes a pass of its own a chunk, a fifth of all work at four levels. Its residual stream is close to that
of the last denoising pass, of which every layer's contribution is kept; the keys and values are computed from the
stream that these make of the clean latents.
"""

from __future__ import annotations

from dataclasses import dataclass

from cache.features.reuse import FeatureCache, in_order, kept
from cache.layer_plan import EVERY, LayerPlan, Left, Tap
from cache.types import Row


@dataclass(frozen=True, slots=True)
class CleanPass(FeatureCache):
    """Attributes: `whole`: so many first layers are computed in that pass too."""

    whole: int = 0

    def buffers(self, layers: int) -> int:
        return layers - 1

    def denoise(self, row: Row, step: int, left: Left) -> LayerPlan:
        if any(to is not None for to in row.to):
            return EVERY
        used = range(self.whole, left.layers - 1)
        return LayerPlan(taps=in_order(*(tap for layer in used for tap in kept(range(layer, layer + 1), layer))))

    def remember(self, row: Row, left: Left) -> LayerPlan:
        used = range(self.whole, left.layers - 1)
        if any(left.age(layer, row.frames) is None for layer in used):
            return EVERY
        taps = tuple(Tap(layer + 1, layer, "add") for layer in used)
        return LayerPlan(taps=taps, keys=(range(self.whole, left.layers),))
