"""TeaCache: the change of the first layer's modulated input tells how much the prediction will change.

Changes from pass to pass, taken through a polynomial that was fitted for the model, are added up since the last
computed pass; while the sum stays below `threshold`, all layers' contribution of that pass is used again. First and
last pass of a chunk are computed (TeaCache, arXiv 2411.19108). There a pass waits for its own change. Here the change
that a pass brings is the one that the same pass of the chunk before brought, so that nothing waits; that input depends
on little but the level. A chunk without one before is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from cache.features.facts import Facts
from cache.features.reuse import NEAR, FeatureCache, in_order, kept
from cache.layer_plan import LayerPlan, Left, Tap
from cache.types import Row

_ADDED = 2
"""Buffer of what all layers add; the first two hold the modulated inputs of this pass and the one before."""


@dataclass(frozen=True, slots=True)
class TeaCache(FeatureCache):
    """Attributes:
    threshold: of the changes added up; 0 never uses anything again.
    coefficients: of the polynomial, highest first.
    """

    threshold: float = 0.1
    coefficients: tuple[float, ...] = (1.0, 0.0)

    @classmethod
    def of(cls, levels: tuple[float, ...], chunk: int, facts: Facts | None) -> Self:
        if facts is None or not facts.coefficients:
            return cls(levels, chunk)
        return cls(levels, chunk, coefficients=facts.coefficients)

    def buffers(self, layers: int) -> int:
        return 3

    @property
    def halves(self) -> bool:
        return True

    def denoise(self, row: Row, step: int, left: Left) -> LayerPlan:
        own, other, every = step % 2, 1 - step % 2, range(left.layers)
        taps = [Tap(0, own, "keep_modulated")]
        if step:
            taps.append(Tap(0, own, "compare", other=other))
        if self._again(row, step, left):
            return LayerPlan((every,), in_order(*taps, Tap(left.layers, _ADDED, "add")))
        return LayerPlan(taps=in_order(*taps, *kept(every, _ADDED)))

    def _again(self, row: Row, step: int, left: Left) -> bool:
        """Whether the last computed pass stands in for this one."""
        done = left.of(row.frames)
        last = row.to[0] is None
        if step == 0 or last or left.age(_ADDED, row.frames) is None:
            return False
        before = left.of(range(row.frames.start - self.chunk, row.frames.stop - self.chunk))
        if step >= len(before) or abs(before[step].level - row.levels[0]) > NEAR:
            return False
        since = next(number for number, each in enumerate(reversed(done)) if each.whole)
        changes = [*(each.change for each in done[len(done) - since :]), before[step].change]
        told = [each for each in changes if each is not None]
        return len(told) == len(changes) and sum(self._rescaled(each) for each in told) < self.threshold

    def _rescaled(self, change: float) -> float:
        return abs(polynomial(self.coefficients, change))


def polynomial(coefficients: Sequence[float], at: float) -> float:
    """Its value, coefficients highest first."""
    value = 0.0
    for each in coefficients:
        value = value * at + each
    return value
