"""Levels: a rank owns noise levels, with all layers and the memory of its levels; only latents travel.

A chunk goes from level to level and so from rank to rank, while other chunks are at other levels: the stages of the
stream batch (StreamDiffusionV2, Feng et al. 2025, arXiv 2511.07399), laid out over devices. What a level needs of
earlier chunks is what the same level left behind, so no key ever moves, and the film is the same bit for bit.
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
class Levels:
    """So many ranks, each with a run of the plan's levels; rank 0 has the first, text and pictures too."""

    ranks: int

    def check(self, facts: Facts) -> None:
        levels, noise = facts.noise.lanes, facts.noise
        if levels == 1:
            raise ValueError(
                f"preset {facts.preset!r} has one memory for all its noise levels, which cannot lie apart: choose "
                "--parallel ulysses or layers, or the preset streamdiffusion-v2"
            )
        if self.ranks > levels:
            raise ValueError(
                f"preset {facts.preset!r} has {levels} noise levels, too few for {self.ranks} ranks: give --parallel "
                f"levels={levels} or fewer, or more --num_inference_steps"
            )
        if not hasattr(noise, "lane_of") or getattr(noise, "step", "") == "unipc":
            raise ValueError(
                f"the steps of preset {facts.preset!r} remember each other, and levels that lie apart cannot: choose "
                "--parallel ulysses or layers"
            )
        if facts.guidance == "residual-once":
            raise ValueError(
                "guidance residual-once carries what its first level found to all others: choose the guidance full or "
                "residual-self under --parallel levels"
            )

    def shares(self, facts: Facts, costs: Costs, link: Link | None) -> Sequence[Share]:
        from parallel.share import Share

        beside = [costs.beside, *(0.0,) * (self.ranks - 1)]
        lanes = cut([costs.row] * facts.noise.lanes, beside)
        return [Share(part, range(facts.layers), range(facts.heads), apart=True) for part in lanes]

    def connect(self, stream: Any, share: Share, shares: Sequence[Share], link: Link) -> None:
        from parallel.handover import LevelHandover

        stream.handover = LevelHandover(link, [each.lanes for each in shares], stream.engine.policies.plan.lane_of)
