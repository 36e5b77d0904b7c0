"""Step Rehash: on every other pass the deep layers are not run; what they added the pass before is used again.

Streamlined Inference (2024, arXiv 2411.01171), for a transformer: a fixed pattern, without a measurement and with no
memory beyond one feature.
"""

from __future__ import annotations

from dataclasses import dataclass

from cache.features.reuse import FeatureCache, kept, middle
from cache.layer_plan import LayerPlan, Left, Tap
from cache.types import Row


@dataclass(frozen=True, slots=True)
class StepRehash(FeatureCache):
    """Attributes:
    interval: every so manieth pass is whole.
    first, last: layers that are always computed.
    """

    interval: int = 2
    first: int = 1
    last: int = 0

    def buffers(self, layers: int) -> int:
        return 1

    @property
    def halves(self) -> bool:
        return True

    def denoise(self, row: Row, step: int, left: Left) -> LayerPlan:
        part = middle(left.layers, self.first, self.last)
        if step % self.interval == 0 or left.age(0, row.frames) is None:
            return LayerPlan(taps=kept(part, 0))
        return LayerPlan((part,), (Tap(part.stop, 0, "add"),))
