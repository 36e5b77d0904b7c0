"""CacheQuant: which passes are computed was planned beforehand, and what the others use again is corrected by channel.

`rivulet profile` finds the plan, by a dynamic program over the passes of some chunks (training/segmentation.py), and
for every pair of passes the factor and the offset of each channel that bring the features of one nearest to those of
the other (CacheQuant, Liu et al. 2025, arXiv 2503.01323). Without a profile every other pass is computed and nothing
is corrected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from cache.features.facts import Facts
from cache.features.reuse import NEAR, FeatureCache, kept, middle
from cache.layer_plan import EVERY, LayerPlan, Left, Tap
from cache.types import Row


@dataclass(frozen=True, slots=True)
class Planned(FeatureCache):
    """Attributes:
    first: layers that are always computed.
    computed: which passes are, a row for every chunk of a period; empty: every other one.
    facts: numbers of the corrections; None corrects nothing.
    """

    first: int = 1
    computed: tuple[tuple[bool, ...], ...] = ()
    facts: Facts | None = None

    @classmethod
    def of(cls, levels: tuple[float, ...], chunk: int, facts: Facts | None) -> Self:
        if facts is None or not facts.computed:
            raise ValueError(
                "the feature cache planned goes by a profile, and this model has none: run rivulet profile, or choose "
                "step-rehash"
            )
        if facts.levels != levels:
            told = ", ".join(f"{level:.0f}" for level in facts.levels)
            raise ValueError(
                f"the model's profile is of {len(facts.levels)} steps (at {told}), and this film takes {len(levels)} "
                "or other ones: run rivulet profile with the film's settings"
            )
        return cls(levels, chunk, facts.first, facts.computed, facts)

    def buffers(self, layers: int) -> int:
        return 1

    @property
    def halves(self) -> bool:
        return True

    def denoise(self, row: Row, step: int, left: Left) -> LayerPlan:
        if abs(row.levels[0] - self.levels[step]) > NEAR:
            return EVERY  # a chunk of video that begins elsewhere
        part = middle(left.layers, self.first, 0)
        if self._computes(row, step) or left.age(0, row.frames) is None:
            return LayerPlan(taps=kept(part, 0))
        done = left.of(row.frames)
        source = max(number for number, each in enumerate(done) if each.whole)
        corrected = -1 if self.facts is None else self.facts.of_level(source, step)
        return LayerPlan((part,), (Tap(part.stop, 0, "add", corrected=corrected),))

    def _computes(self, row: Row, step: int) -> bool:
        if not self.computed:
            return step % 2 == 0
        return self.computed[row.frames.start // self.chunk % len(self.computed)][step]
