"""Ulysses: tokens lie apart, and for attention heads do, with the memory of each head where the head is.

Only the queries, keys and values of the frames in hand are exchanged; what is remembered never moves, and each rank
remembers its heads only (DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv 2309.14509, with a memory). Every preset runs,
re-cache and pruning included; sums come in another order, so a film differs in its last bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cache.types import TokenScorer
from parallel.plan import Costs, Facts

if TYPE_CHECKING:
    from parallel.link import Link
    from parallel.share import Share


@dataclass(frozen=True, slots=True)
class Ulysses:
    """So many ranks, each with a share of the heads that differs by one at most; rank 0 has text and pictures too."""

    ranks: int

    def check(self, facts: Facts) -> None:
        if self.ranks > facts.heads:
            raise ValueError(
                f"this model has {facts.heads} attention heads, too few for {self.ranks} ranks: give --parallel "
                f"ulysses={facts.heads} or fewer"
            )
        if facts.features:
            raise ValueError(
                "a feature cache decides by what all tokens show, and here they lie apart: leave --feature_cache out"
            )
        scorer = facts.cache.scorer
        if isinstance(scorer, TokenScorer) and not hasattr(scorer, "asked"):
            raise ValueError(
                f"preset {facts.preset!r} judges tokens by what all heads say at once, and here they lie apart: choose "
                "--parallel layers"
            )

    def shares(self, facts: Facts, costs: Costs, link: Link | None) -> Sequence[Share]:
        from parallel.share import Share

        bounds = [facts.heads * rank // self.ranks for rank in range(self.ranks + 1)]
        parts = [range(bounds[rank], bounds[rank + 1]) for rank in range(self.ranks)]
        if link is None:
            return [Share(range(facts.noise.lanes), range(facts.layers), part) for part in parts]
        from parallel.scorers import HEADS, apart

        sizes = [len(part) for part in parts]

        def scorer(own: Any) -> Any:
            return apart(own, link, HEADS, sizes)

        return [Share(range(facts.noise.lanes), range(facts.layers), part, scorer=scorer) for part in parts]

    def connect(self, stream: Any, share: Share, shares: Sequence[Share], link: Link) -> None:
        from parallel.heads import HeadRunner

        stream.runner = HeadRunner(stream.engine.transformer, [each.heads for each in shares], link)
