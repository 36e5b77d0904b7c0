"""Draws how noisy the frames of a training window are, and noise for what an autoencoder decodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SHIFT, JOINT_SHIFTS = 3.0, (3.0, 5.0)
"""Shift of the sampler's noise levels, and those that plans of a joint window use."""
SHAKE = 0.12
"""Most noise on history that is declared clean."""


def draw_sigma(rng: np.random.Generator, size: int, levels: Sequence[float] | None = None) -> np.ndarray:
    """Noise levels in (0, 1), shifted towards noise as the sampler's are: half uniform, half logit-normal.

    The normal ones gather where place and way of the object are decided, the first half of the sampler's steps.
    With `levels`, only these.
    """
    if levels:
        return rng.choice(levels, size)
    uniform = rng.random(size)
    normal = 1.0 / (1.0 + np.exp(-1.0 - rng.standard_normal(size)))
    return _shift(np.where(rng.random(size) < 0.5, uniform, normal), SHIFT)


def draw_rising_sigma(rng: np.random.Generator, size: int, noisy: int, full: int) -> np.ndarray:
    """Noise levels in (0, 1] that rise from chunk to chunk of a joint window, [size, noisy].

    A window of `full` frames in chunks of 1, 2, 3, 6 or all frames has one band of levels a chunk (mixed partitions,
    StreamDiT, arXiv 2507.03745). Half the time every chunk is at the top of its band, as in a rolling window of a
    step a chunk, otherwise anywhere in it. A window that is not yet full holds the noisiest chunks.
    """
    sigma = np.empty((size, noisy))
    for row in sigma:
        chunk = int(rng.choice([1, 2, 3, 6, full], p=[0.1, 0.15, 0.45, 0.15, 0.15]))
        bands = -(-full // chunk)
        within = np.ones(bands) if rng.random() < 0.5 else 1.0 - rng.random(bands)
        band = np.arange(full - noisy, full) // chunk
        row[:] = _shift((band + within[band]) / bands, float(rng.choice(JOINT_SHIFTS)))
    return sigma


def draw_shake(rng: np.random.Generator, size: int, share: float) -> np.ndarray:
    """How much noise lies on history that is declared clean, in a share of the rows, [size, 1]."""
    return np.where(rng.random((size, 1)) < share, rng.uniform(0.0, SHAKE, (size, 1)), 0.0)


def _shift(level: np.ndarray, shift: float) -> np.ndarray:
    return shift * level / (1.0 + (shift - 1.0) * level)


def latent_noise(shape: Sequence[int], most: float, generator: torch.Generator) -> Tensor:
    """Noise for latents (B, ...): of every clip from a little to `most`; a clean one is to be drawn sharply, too."""
    spread = most * torch.rand(shape[0], *[1] * (len(shape) - 1), generator=generator)
    return spread * torch.randn(*shape, generator=generator)
