"""First-Block Cache and DBCache: what the first layers add tells whether the others have to be computed.

The first `first` layers (F) and the last `last` ones (B) always run; what those between add is used again while what
the first ones add has changed by less than `threshold` since the last whole pass (cache-dit's DBCache; F1 B0 is
First-Block Cache). Measured in one pass, it decides about the next one, so that no pass waits for a number.
"""

from __future__ import annotations

from dataclasses import dataclass

from cache.features.reuse import FeatureCache, in_order, kept, middle
from cache.layer_plan import LayerPlan, Left, Tap
from cache.types import Row

_BETWEEN, _NOW = 2, 3
"""Buffers of what the layers between add, and of what the first ones add in a pass that is not whole."""


@dataclass(frozen=True, slots=True)
class FirstBlock(FeatureCache):
    """Attributes:
    first, last: layers that are always computed.
    threshold: of the change, as a share; 0 or less never uses anything again, 1 or more always does.
    warm_up: whole passes at a chunk's beginning, one at least.
    most: passes of a chunk that are not whole, at most; -1 is no limit.
    in_a_row: of these one after the other, at most; -1 is no limit.
    accumulated: of the changes since the last whole pass, at most; 0 is no limit.
    """

    first: int = 1
    last: int = 0
    threshold: float = 0.08
    warm_up: int = 1
    most: int = -1
    in_a_row: int = -1
    accumulated: float = 0.0

    def __post_init__(self) -> None:
        if self.first < 1:
            raise ValueError(f"the first layers tell whether the others change, and {self.first} tell nothing: take 1")

    def buffers(self, layers: int) -> int:
        return 4

    @property
    def halves(self) -> bool:
        return True

    def denoise(self, row: Row, step: int, left: Left) -> LayerPlan:
        done = left.of(row.frames)
        whole = sum(each.whole for each in done)
        part, before = (
            middle(left.layers, self.first, self.last),
            range(middle(left.layers, self.first, self.last).start),
        )
        own, other = whole % 2, 1 - whole % 2
        if self._again(left, row, step):
            compared = Tap(before.stop, _NOW, "compare", other=other)
            return LayerPlan((part,), in_order(*kept(before, _NOW), compared, Tap(part.stop, _BETWEEN, "add")))
        taps = [*kept(before, own), *kept(part, _BETWEEN)]
        if whole:
            taps.insert(2, Tap(before.stop, own, "compare", other=other))
        return LayerPlan(taps=in_order(*taps))

    def _again(self, left: Left, row: Row, step: int) -> bool:
        """Whether what the layers between added is used once more."""
        done = left.of(row.frames)
        if self.threshold <= 0 or step < max(1, self.warm_up) or left.age(_BETWEEN, row.frames) is None:
            return False
        since = next((number for number, each in enumerate(reversed(done)) if each.whole), len(done))
        if self.most >= 0 and sum(not each.whole for each in done) >= self.most:
            return False
        if 0 <= self.in_a_row <= since:
            return False
        if self.threshold >= 1:
            return True
        changes = [each.change for each in done[len(done) - max(1, since) :] if each.change is not None]
        if not changes or (self.accumulated > 0 and sum(changes) > self.accumulated):
            return False
        return changes[-1] < self.threshold
