"""Share of a stream that one rank holds: noise levels (lanes), layers and heads, as ranges.

What a rank holds none of costs it no memory: stores are allocated for their share from the beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cache.types import FrameScorer, TokenScorer

if TYPE_CHECKING:
    from cache.kv_shape import KVShape

Scorer = TokenScorer | FrameScorer | None


@dataclass(frozen=True, slots=True)
class Share:
    """What of a stream lies in one process.

    Attributes:
        lanes: memories, one a noise level where there is more than one.
        layers: of the model.
        heads: of its self-attention.
        apart: rows of a pass go through the model one by one: so bits do not depend on how many share a process, and
            ranks have something to do at the same time.
        scorer: makes the cache policy's scorer one that sees what lies on other ranks too.
    """

    lanes: range
    layers: range
    heads: range
    apart: bool = False
    scorer: Callable[[Scorer], Scorer] = field(default=lambda scorer: scorer)

    def shape(self, shape: KVShape, lane: int) -> KVShape:
        """The part of a lane's memory that is here; it has no room at all in a lane of another rank."""
        from dataclasses import replace

        if lane not in self.lanes:
            return replace(shape, layers=len(self.layers), heads=len(self.heads), capacity=0, own=0)
        return replace(shape, layers=len(self.layers), heads=len(self.heads))
