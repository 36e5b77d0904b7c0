"""How alike two frames are, by the directions of their mean keys and mean values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class FrameSimilarity:
    """Half the cosine of the token-mean keys and half that of the token-mean values, averaged over layers.

    After StreamDiffusionV2's sink tokens (Feng et al. 2025, arXiv 2511.07399), which compares rotated keys in every
    layer by itself: there a frame grows less like a sink merely by standing farther away. Un-rotated keys say what was
    seen, not when. A place that holds nothing is like nothing: 0.
    """

    def compare(self, frames: Tensor, newest: Tensor) -> Tensor:
        """-1..1 for each place, [S], averaged over the films of a batch; shapes as in `FrameScorer`."""
        from torch.nn.functional import cosine_similarity

        pairs = frames.flatten(4).float(), newest.flatten(3).float().unsqueeze(3)
        return cosine_similarity(*pairs, dim=-1, eps=1e-12).mean(dim=(0, 1, 2))
