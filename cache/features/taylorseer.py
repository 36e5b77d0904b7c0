"""TaylorSeer: what all layers add is foretold from the passes before, by the polynomial through them.

Of a chunk's passes the first `order` + 1 are computed and then every `interval`-th; between them the contribution is
the polynomial of that order through the last computed ones. TaylorSeer (arXiv 2503.06923) takes backward differences
for derivatives, which is exact only to order 1; through the points it is exact to the order it has. At four steps and
order 1 only the third pass can be foretold.
"""

from __future__ import annotations

from dataclasses import dataclass

from cache.features.reuse import FeatureCache, extrapolation, kept
from cache.layer_plan import LayerPlan, Left, Tap
from cache.types import Row

_MANY = 20


@dataclass(frozen=True, slots=True)
class TaylorSeer(FeatureCache):
    """Attributes:
    order: of the polynomial, 0 to 2.
    interval: every so manieth pass is computed; 0: every other one, from 20 passes on every third.
    """

    order: int = 1
    interval: int = 0

    def buffers(self, layers: int) -> int:
        return self.order + 1

    @property
    def halves(self) -> bool:
        return True

    def denoise(self, row: Row, step: int, left: Left) -> LayerPlan:
        computed = [number for number, done in enumerate(left.of(row.frames)) if done.whole]
        every, points = range(left.layers), computed[-(self.order + 1) :]
        interval = self.interval or (3 if len(self.levels) >= _MANY else 2)
        if len(points) <= self.order or (step - self.order) % interval == 0:
            return LayerPlan(taps=kept(every, len(computed) % (self.order + 1)))
        weights = extrapolation(points, step)
        first = len(computed) - len(points)
        taps = [
            Tap(left.layers, (first + number) % (self.order + 1), "add", weight=weight)
            for number, weight in enumerate(weights)
        ]
        return LayerPlan((every,), tuple(taps))
