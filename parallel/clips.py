"""Clips: a rank owns a run of a joint window's frames, and gets the keys of those that its frames see.

The clips of Video-Infinity (Tan et al. 2024, arXiv 2406.16260), for a transformer: all frames of a window are denoised
together, so cutting it by frames is exact. Under a dual scope (cache/dual_scope.py), which decides the film on any
number of ranks, only keys of neighbours and of spread frames travel; without one, all. Every rank has all weights and
the whole memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parallel.plan import Costs, Facts, whole
from schedulers.buffer import MovingBuffer

if TYPE_CHECKING:
    from parallel.link import Link
    from parallel.share import Share


@dataclass(frozen=True, slots=True)
class Clips:
    """So many ranks, each with frames whose number differs by one at most; rank 0 has text and pictures too.

    A pass of fewer frames than ranks, as the memory's own may be, is run by every rank whole.
    """

    ranks: int

    def check(self, facts: Facts) -> None:
        if not isinstance(facts.noise, MovingBuffer):
            raise ValueError(
                f"preset {facts.preset!r} denoises one chunk after the other and has no joint window to cut: choose "
                "--parallel ulysses or layers, or the preset rolling-forcing or streamdit"
            )
        if self.ranks > facts.noise.width:
            raise ValueError(
                f"preset {facts.preset!r} has a window of {facts.noise.width} latent frames, too few for {self.ranks} "
                f"ranks: give --parallel clips={facts.noise.width} or fewer"
            )
        if facts.cache.scorer is not None:
            raise ValueError(
                f"preset {facts.preset!r} judges its memory by what all frames ask, and here they lie apart: choose "
                "--parallel layers"
            )

    def shares(self, facts: Facts, costs: Costs, link: Link | None) -> Sequence[Share]:
        return [whole(facts)] * self.ranks

    def connect(self, stream: Any, share: Share, shares: Sequence[Share], link: Link) -> None:
        from parallel.frames import FrameRunner

        stream.runner = FrameRunner(stream.engine.transformer, link)
