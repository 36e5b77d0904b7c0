"""Which chunks of a video need no work: those that show what the last one showed.

The stochastic similarity filter of StreamDiffusion (Kodaira et al. 2023, arXiv 2312.12491) in a form for chunks. What
counts is the block that changed most, since a hand that moves in a still room leaves a whole picture's cosine at .999;
what a sensor adds to every block is taken off first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 16
"""Side of a block, in pixels of the picture at half its size."""

QUIET = 0.2
"""The share of quiet blocks, and of quiet chunks, that tells what the sensor adds."""


@dataclass(frozen=True, slots=True)
class Change:
    """What changed since the picture that was last worked on, in pixels of 0 to 1.

    `most` is of the block that changed most, `quiet` the change that a fifth of the blocks stay below, `cosine` how
    alike the pictures are as a whole (-1 to 1).
    """

    most: float
    quiet: float
    cosine: float


def change(reference: NDArray[Any], pixels: NDArray[Any]) -> Change:
    """How far the frames of a chunk are from a reference picture.

    Args:
        reference: uint8 [H, W, 3].
        pixels: uint8 [T, H, W, 3], T at least 1; the frame farthest away counts.
    """
    before = _halved(reference[None])
    after = _halved(pixels)
    blocks = _block_means(np.abs(after - before).mean(axis=3))
    centred = [picture.reshape(len(picture), -1) - 0.5 for picture in (before, after)]
    lengths = [np.sqrt(np.square(each).sum(axis=1)) for each in centred]
    cosines = (centred[0] * centred[1]).sum(axis=1) / np.maximum(lengths[0] * lengths[1], 1e-12)
    quiet = np.quantile(blocks.reshape(len(blocks), -1), QUIET, axis=1)
    return Change(float(blocks.max()), float(quiet.max()), float(cosines.min()))


@dataclass(frozen=True, slots=True)
class SimilarityFilter:
    """Skip a chunk with a probability that falls from 1, where nothing changed, to 0 at a change of `limit`.

    Skipped chunks cost nothing; the picture before is shown on. No more than `most` in a row are skipped, and after
    `flush` of them what is still on its way to the screen is finished. `noise` is the most that is taken for the
    sensor's own, `cut` the cosine below which a new scene begins.
    """

    limit: float = 0.04
    most: int = 10
    flush: int = 2
    noise: float = 0.03
    cut: float = 0.0

    def __post_init__(self) -> None:
        if self.limit <= 0 or self.noise < 0 or min(self.most, self.flush) < 1:
            raise ValueError(f"a filter cannot be like this ({self}): give a limit above 0 and counts of 1 or more")

    def floor(self, quiet: tuple[float, ...]) -> float:
        """What the sensor adds, from the `quiet` of the last chunks."""
        return min(self.noise, float(np.quantile(quiet, QUIET))) if quiet else 0.0

    def probability(self, changed: Change, floor: float) -> float:
        """Of skipping a chunk that changed so much."""
        return max(0.0, 1.0 - max(0.0, changed.most - floor) / self.limit)

    def skips(self, probability: float, skipped: int, drawn: float) -> bool:
        """Whether to skip, after so many in a row, with a number drawn evenly from 0 to below 1."""
        return skipped < self.most and drawn < probability


def _halved(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """uint8 [T, H, W, 3] as 0..1 at half the size; an odd last row or column is left out."""
    height, width = (max(2, size // 2 * 2) for size in pixels.shape[1:3])
    part = pixels[:, :height, :width].astype(np.float32)
    total = part[:, ::2, ::2] + part[:, 1::2, ::2] + part[:, ::2, 1::2] + part[:, 1::2, 1::2]
    return total / np.float32(4 * 255)


def _block_means(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Means of [T, H, W] over blocks; those at the far edges may be smaller."""
    rows, heights = _blocks(x.shape[1])
    columns, widths = _blocks(x.shape[2])
    sums = np.add.reduceat(np.add.reduceat(x.astype(np.float64), rows, axis=1), columns, axis=2)
    return sums / (heights[:, None] * widths[None])


def _blocks(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where blocks begin, and how long each is."""
    starts = np.arange(0, size, BLOCK, dtype=np.int64)
    return starts, np.minimum(BLOCK, size - starts)
