"""Layers: a rank owns a run of layers, with their weights and their memory; what flows through the layers travels.

Every row of a pass is a message of its own, so that rank 1 works on the first while rank 0 goes on with the second.
There is no row that is not valid: rows are those of the plan, none runs on zeros while the pipeline fills, and none
writes memory before it was denoised. A pass of one row, as a film under clean memory has them, gains memory and no
speed. After the pipeline of StreamDiffusionV2 (Feng et al. 2025, arXiv 2511.07399), without its micro-batches: a film
is the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parallel.cuts import cut
from parallel.plan import Costs, Facts

if TYPE_CHECKING:
    from parallel.link import Link
    from parallel.share import Share


@dataclass(frozen=True, slots=True)
class Layers:
    """So many ranks, each with a run of layers; rank 0 has the first, text and pictures too."""

    ranks: int

    def check(self, facts: Facts) -> None:
        if self.ranks > facts.layers:
            raise ValueError(
                f"this model has {facts.layers} layers, too few for {self.ranks} ranks: give --parallel "
                f"layers={facts.layers} or fewer"
            )
        if facts.features:
            raise ValueError(
                "a feature cache takes what a pass left on its way through all layers, and here they lie apart: leave "
                "--feature_cache out"
            )

    def shares(self, facts: Facts, costs: Costs, link: Link | None) -> Sequence[Share]:
        from parallel.share import Share

        rows, beside = facts.noise.lanes, [costs.beside, *(0.0,) * (self.ranks - 1)]
        parts = cut([costs.row * rows / facts.layers] * facts.layers, beside)
        lanes, heads, sizes = range(facts.noise.lanes), range(facts.heads), [len(part) for part in parts]
        if link is None:
            return [Share(lanes, part, heads, apart=True) for part in parts]
        from parallel.scorers import LAYERS, apart

        def scorer(own: Any) -> Any:
            return apart(own, link, LAYERS, sizes)

        return [Share(lanes, part, heads, True, scorer) for part in parts]

    def connect(self, stream: Any, share: Share, shares: Sequence[Share], link: Link) -> None:
        from parallel.stages import StageRunner, keep_layers

        keep_layers(stream.engine.transformer, share.layers)
        stream.runner = StageRunner(stream.engine.transformer, link)
