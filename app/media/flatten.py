"""Flattening a picture: how much of its detail stays, and how much becomes flat areas of colour.

What a camera sees is full of texture, noise and light that a model of a small painted world knows nothing of; what
remains of a flattened picture is where things are, and which colours they have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COARSEST = 16
"""Pixels of the picture that one is left of, in each direction, where nothing is held."""


def flattened(pixels: NDArray[np.uint8], hold: float) -> NDArray[np.uint8]:
    """A picture with `hold` of its detail.

    It is shrunk, its medians are taken so that small things vanish and edges stay, and it is enlarged again.

    Args:
        pixels: uint8 RGB [H, W, 3].
        hold: 1 leaves the picture as it is; 0 keeps one pixel of each `COARSEST` in either direction.
    """
    if hold >= 1:
        return pixels
    import numpy as np
    from PIL import Image, ImageFilter

    height, width = pixels.shape[:2]
    by = COARSEST ** (1 - hold)
    small = max(2, round(width / by)), max(2, round(height / by))
    shrunk = Image.fromarray(pixels).resize(small, Image.Resampling.BOX).filter(ImageFilter.MedianFilter(3))
    return np.array(shrunk.resize((width, height), Image.Resampling.BICUBIC))
