"""Scorers of content whose heads or layers lie on several ranks: all ranks judge alike, by what all of them have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cache.types import FrameScorer, TokenScorer
from parallel.link import Link

LAYERS, HEADS = 1, 4
"""Axes of the averaged keys and values [2, layers, B, S, N, D] that frames are compared by."""


@dataclass(frozen=True)
class FramesApart(FrameScorer):
    """A scorer of frames that sees all layers and all heads.

    Attributes:
        scorer: the policy's own.
        link: to the others.
        axis: along which the ranks' parts lie side by side.
        sizes: of the parts.
    """

    scorer: FrameScorer
    link: Link
    axis: int
    sizes: Sequence[int]

    def compare(self, frames: Tensor, newest: Tensor) -> Tensor:
        whole = self.link.gathered("comparisons", frames, self.axis, self.sizes)
        axis = self.axis if self.axis < 3 else self.axis - 1  # `newest` lacks the axis of places
        return self.scorer.compare(whole, self.link.gathered("comparisons", newest, axis, self.sizes))


@dataclass(frozen=True)
class TokensApart:
    """A scorer of tokens that adds up what the heads of all ranks ask.

    Attributes:
        scorer: the policy's own, whose `asked` is a sum over heads and whose `ranked` makes an order of it.
        link: to the others.
        share: of the heads that are here.
    """

    scorer: Any
    link: Link
    share: float

    @property
    def keep_q(self) -> int:
        return self.scorer.keep_q

    def score(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, uses: Tensor) -> Tensor:
        asked = self.scorer.asked(layer, queries, keys, values) * self.share
        return self.scorer.ranked(self.link.summed("scores", asked), uses)


def apart(scorer: TokenScorer | FrameScorer | None, link: Link, axis: int, sizes: Sequence[int]) -> Any:
    """The scorer for a rank that has a part of the layers or heads."""
    if scorer is None:
        return None
    if not isinstance(scorer, TokenScorer):
        return FramesApart(scorer, link, axis, sizes)
    return TokensApart(scorer, link, sizes[link.rank] / sum(sizes)) if axis == HEADS else scorer
