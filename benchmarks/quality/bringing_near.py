"""Bringing a camera's pictures near the painted world: what is coloured stays, the rest becomes the scene asked for.

A trial of what a live film could do, whose frames before a camera show the scene: here it is made of words alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from benchmarks.quality.studio import Studio

SIDE = 48
"""Pixels of the picture in which coloured things are looked for."""
USUAL, MOST = 70, 99.5
"""Percentiles of a picture's colourfulness: what is not more than the first is its ground, the second the thing."""
LEAST, SOFT = 8.0, 12.0
"""Grey levels of 255: above the ground by so much a thing begins, and over so many at least it comes in."""


def coloured(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How much of each pixel belongs to a coloured thing, [H, W] in 0..1, of uint8 RGB [H, W, 3]."""
    from PIL import Image, ImageFilter

    small = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX).filter(ImageFilter.MedianFilter(3))
    levels = np.asarray(small, float)
    chroma = levels - levels.mean(-1, keepdims=True)
    far = np.linalg.norm(chroma - np.median(chroma.reshape(-1, 3), 0), axis=-1)
    low, high = np.percentile(far, USUAL) + LEAST, np.percentile(far, MOST)
    mask = np.clip((far - low) / max(SOFT, 0.5 * (high - low)), 0, 1)
    whole = Image.fromarray((255 * mask).astype(np.uint8)).resize(picture.shape[1::-1], Image.Resampling.BICUBIC)
    return np.asarray(whole, float) / 255


def brought_near(pictures: NDArray[np.uint8], ground: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures [T, H, W, 3] whose coloured things lie before a ground [H, W, 3]."""
    masks = np.stack([coloured(picture) for picture in pictures])[..., None]
    return (masks * pictures + (1 - masks) * ground).round().clip(0, 255).astype(np.uint8)


def ground_of(studio: Studio, text: str, seed: int) -> NDArray[np.uint8]:
    """What stays in place in the first three chunks of a film of these words alone, uint8 RGB [H, W, 3]."""
    from pipelines.types import Controls

    stream, controls = studio.stream(seed), Controls(text)
    made = [stream.next_chunk(controls).pixels for _ in range(3)]
    frames = np.concatenate([pixels for pixels in made if pixels is not None])
    return np.median(frames[::3], axis=0).astype(np.uint8)
