"""Participative compression's score: how much attention the last frames' queries ask of a remembered token.

It is the sum of raw attention logits over heads and queries, without a softmax, so the queries can be added up first
and a token costs one product (Deep Forcing, Yi et al. 2025, arXiv 2512.05081).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class LogitSum:
    """One score a token, shared by all heads, from the queries of the last `recent` frames.

    A token that was chosen `max_reuse` times already stands behind all others, so that no content is kept for ever;
    among themselves such tokens keep their order, for the case that too few others are left to fill the budget.
    """

    recent: int = 4
    max_reuse: int = 7

    def __post_init__(self) -> None:
        if min(self.recent, self.max_reuse) < 1:
            raise ValueError(
                f"tokens are judged by at least one latent frame and chosen at least once, got recent {self.recent} "
                f"and max_reuse {self.max_reuse}"
            )

    @property
    def keep_q(self) -> int:
        return self.recent

    def asked(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Summed logits over sqrt(head size) * heads, [B, S]; arguments as TokenScorer says."""
        heads, head_dim = keys.shape[2:]
        summed = queries.sum(dim=1)
        return (keys.to(summed.dtype) * summed[:, None]).sum(dim=(2, 3)) / (head_dim**0.5 * heads)

    def ranked(self, asked: Tensor, uses: Tensor) -> Tensor:
        """The same, and those behind all others that were chosen often."""
        behind = asked.amax(dim=1, keepdim=True) - asked.amin(dim=1, keepdim=True) + 1.0
        return asked - behind * (uses >= self.max_reuse)

    def score(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, uses: Tensor) -> Tensor:
        """What all heads ask, ranked; arguments as TokenScorer says. Heads that lie apart are added up in between."""
        return self.ranked(self.asked(layer, queries, keys, values), uses)
