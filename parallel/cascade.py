"""Cascade: a rank owns every P-th chunk, with all layers; keys travel, once a pass, and all ranks remember the same.

What the chunks of a cascade see of each other is a tick old (schedulers/cascade.py), so ranks run their passes of a
tick at the same time, and the film depends on the cascade's depth alone, bit for bit (Block Cascading, arXiv
2511.20426).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parallel.plan import Costs, Facts, whole
from schedulers.cascade import Cascade as Chunks

if TYPE_CHECKING:
    from parallel.link import Link
    from parallel.share import Share


@dataclass(frozen=True, slots=True)
class Cascade:
    """So many ranks, chunk after chunk to the next of them; all have all weights; rank 0 has text and pictures too."""

    ranks: int

    def check(self, facts: Facts) -> None:
        if not isinstance(facts.noise, Chunks):
            raise ValueError(
                f"this film of preset {facts.preset!r} has one chunk on its way at a time: give --cascade "
                f"{self.ranks}, which makes another film, or choose --parallel ulysses or layers"
            )
        if self.ranks > facts.noise.depth:
            raise ValueError(
                f"a cascade of {facts.noise.depth} chunks has too few for {self.ranks} ranks: give --parallel "
                f"cascade={facts.noise.depth} or fewer, or --cascade {self.ranks}, which makes another film"
            )

    def shares(self, facts: Facts, costs: Costs, link: Link | None) -> Sequence[Share]:
        return [whole(facts)] * self.ranks

    def connect(self, stream: Any, share: Share, shares: Sequence[Share], link: Link) -> None:
        from parallel.wavefront import Wavefront

        policies = stream.engine.policies
        stream.handover = Wavefront(link, policies.plan.chunk, policies.cache, stream.state.kv[0])
