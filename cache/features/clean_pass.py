"""The pass that writes the memory uses what the layers added in the last denoising pass, and computes only keys.

Clean memory takes a pass of its own a chunk, a fifth of all work at four levels. Its residual stream is close to that
of the last denoising pass, of which every layer's contribution is kept; the keys and values are computed from the
stream that these make of the clean latents. Where the model has a profile (`rivulet profile`), each channel of a
contribution is corrected by the factor and the offset that were fitted for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from cache.features.facts import Facts
from cache.features.reuse import FeatureCache, in_order, kept
from cache.layer_plan import EVERY, LayerPlan, Left, Tap
from cache.types import Row


@dataclass(frozen=True, slots=True)
class CleanPass(FeatureCache):
    """Attributes:
    whole: so many first layers are computed in that pass too.
    facts: numbers of the corrections of what the layers added, by channel; None corrects nothing.
    """

    whole: int = 0
    facts: Facts | None = None

    @classmethod
    def of(cls, levels: tuple[float, ...], chunk: int, facts: Facts | None) -> Self:
        fits = facts is not None and facts.levels[-1] == levels[-1]
        return cls(levels, chunk, facts=facts if fits else None)

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
        facts = self.facts
        taps = tuple(
            Tap(layer + 1, layer, "add", corrected=-1 if facts is None else facts.of_clean(layer)) for layer in used
        )
        return LayerPlan(taps=taps, keys=(range(self.whole, left.layers),))
