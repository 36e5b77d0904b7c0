"""What a run of layers added for the chunk before, at the same noise level, is used again for this one.

Few-step models have no neighbouring steps that are alike, but their chunks may be: a still camera sees the same picture
again (X-Cache, arXiv 2604.20289, skips blocks of a four-step causal model that way). Passes that write the memory are
computed. A level is computed anew after a new prompt or a cut, when it is older than `age` chunks, and wherever its
contribution changed by more than `limit` the last time two chunks in a row were computed: so it is off by itself where
chunks are not alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from cache.features.reuse import NEAR, FeatureCache, in_order, kept, middle
from cache.layer_plan import LayerPlan, Left, Tap
from cache.types import Row


@dataclass(frozen=True, slots=True)
class CrossChunk(FeatureCache):
    """Attributes:
    first, last: layers that are always computed.
    age: chunks that a contribution is used for, at most.
    limit: of the change from chunk to chunk, as a share of its size; 0 never, 1 and above always.
    """

    first: int = 1
    last: int = 0
    age: int = 1
    limit: float = 0.2

    def buffers(self, layers: int) -> int:
        return len(self.levels)

    @property
    def chunks(self) -> int:
        return 2

    def denoise(self, row: Row, step: int, left: Left) -> LayerPlan:
        part = middle(left.layers, self.first, self.last)
        before = range(row.frames.start - self.chunk, row.frames.stop - self.chunk)
        age, then = left.age(step, before), left.of(before)
        if age is None or len(then) <= step or abs(then[step].level - row.levels[0]) > NEAR:
            return LayerPlan(taps=kept(part, step))
        if age < self.age and self._alike(row, left):
            return LayerPlan((part,), (Tap(part.stop, step, "add", back=self.chunk),))
        compared = Tap(part.stop, step, "compare", back=self.chunk, other=step)
        return LayerPlan(taps=in_order(*kept(part, step), compared))

    def _alike(self, row: Row, left: Left) -> bool:
        if self.limit >= 1:
            return True
        near = [done for done in left.done if abs(done.level - row.levels[0]) <= NEAR]
        known = [done.change for done in near if done.change is not None]
        return bool(known) and known[-1] < self.limit
