"""What changed from picture to picture of a video: how much it moves, and where."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedulers.similarity import QUIET, Change

BLOCK = 16
"""Side of a block, in pixels of the picture at half its size."""


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


def motion(pixels: NDArray[Any]) -> float:
    """The largest root mean square difference of neighbouring frames, in units of pixels from -1 to 1.

    Args:
        pixels: [T, ...], T at least 2: the frames to come, and before them the one they follow. uint8 0..255 or
            floats -1..1.
    """
    if len(pixels) < 2:
        raise ValueError("motion is between two frames: give the frame before the new ones too")
    unit = 2 / 255 if pixels.dtype == np.uint8 else 1.0
    changes = np.diff(pixels.astype(np.float64), axis=0) * unit
    return float(np.sqrt(np.square(changes).reshape(len(changes), -1).mean(axis=1)).max())


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
