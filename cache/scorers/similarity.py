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

    def compare(self, keys: Tensor, values: Tensor, new_keys: Tensor, new_values: Tensor) -> Tensor:
        """-1..1 for each place, [S], averaged over the films of a batch; shapes as in `FrameScorer`."""
        return (_cosine(keys, new_keys) + _cosine(values, new_values)) / 2


def _cosine(frames: Tensor, newest: Tensor) -> Tensor:
    """Of [layers, B, S, N, D] with [layers, B, N, D]: [S]."""
    a = frames.flatten(3).float()
    b = newest.flatten(2).float().unsqueeze(2)
    lengths = a.norm(dim=-1) * b.norm(dim=-1)
    return ((a * b).sum(dim=-1) / lengths.clamp_min(1e-12)).mean(dim=(0, 1))
