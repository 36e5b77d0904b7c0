"""Affine correction of features by channel: the factor and offset that bring one nearest to another (CacheQuant).

Kept as sums, so that a film of any length is fitted in the memory of one chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FLAT = 1e-12
"""Variance, as a share of the mean square, below which a channel is constant."""


class AffineFit:
    """The least squares fit of y by a x + b, a channel each.

    Args:
        channels: how many.
    """

    def __init__(self, channels: int) -> None:
        self._sums = torch.zeros(5, channels, dtype=torch.float64)
        self._count = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Features [..., E] and what they should be."""
        x, y = (each.detach().double().flatten(0, -2).cpu() for each in (x, y))
        self._sums += torch.stack([x.sum(0), y.sum(0), (x * x).sum(0), (x * y).sum(0), (y * y).sum(0)])
        self._count += len(x)

    def __add__(self, other: AffineFit) -> AffineFit:
        both = AffineFit(self._sums.shape[1])
        both._sums, both._count = self._sums + other._sums, self._count + other._count
        return both

    def correction(self) -> Tensor:
        """Factor and offset of every channel, [2, E], float64."""
        x, y, xx, xy, _ = self._sums / max(1, self._count)
        spread = xx - x * x
        flat = spread <= _FLAT * xx.clamp_min(1e-30)
        factor = torch.where(flat, 1.0, (xy - x * y) / torch.where(flat, 1.0, spread))
        return torch.stack([factor, y - factor * x])

    def error(self, correction: Tensor | None = None) -> float:
        """Root of the squared error as a share of y's size, under a correction [2, E] or used as it is."""
        x, y, xx, xy, yy = self._sums / max(1, self._count)
        a, b = (torch.ones_like(x), torch.zeros_like(x)) if correction is None else correction
        squared = yy - 2 * a * xy - 2 * b * y + a * a * xx + 2 * a * b * x + b * b
        return float((squared.clamp_min(0).sum() / yy.sum().clamp_min(1e-30)).sqrt())
