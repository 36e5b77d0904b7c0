"""Films straight from a training checkpoint, to look at while training; the engine itself is not involved.

History is simply recomputed with every step under the prompt in force, which is what re-cached keys amount to, so a
difference to the engine's films points at the engine's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.taehv import AutoencoderTAEHV
from training.dit import TOKENS, Denoiser
from training.noise import SHIFT
from training.windows import SINK, WINDOW


def sigmas(steps: int) -> Tensor:
    """The sampler's noise levels, from 1 to 0, steps + 1 of them."""
    level = torch.linspace(1.0, 0.0, steps + 1)
    return SHIFT * level / (1.0 + (SHIFT - 1.0) * level)


@torch.no_grad()
def sample(
    model: Denoiser,
    scripts: Sequence[Sequence[str]],
    *,
    steps: int = 8,
    seed: int = 0,
    size: int | None = None,
    chunk: int = 3,
    guidance: float = 1.0,
) -> Tensor:
    """Latents [B, F, C, h, w] of films.

    Args:
        model: the denoiser.
        scripts: for each film, the prompt of each chunk; all of one length.
        steps: Euler steps a chunk.
        seed: of the noise.
        size: h and w; None: of the world's pictures.
        chunk: latent frames a chunk.
        guidance: classifier-free guidance; 1 = none.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, channels = len(scripts), model.transformer.config["in_channels"]
    size = size or TOKENS * model.patch
    film = torch.zeros(batch, 0, channels, size, size)
    levels = sigmas(steps).tolist()
    for index in range(len(scripts[0])):
        text = model.text_encoder.encode([script[index] for script in scripts])
        past = film
        if film.shape[1] > WINDOW - chunk:
            past = torch.cat([film[:, :SINK], film[:, film.shape[1] - (WINDOW - chunk - SINK) :]], dim=1)
        now = torch.randn(batch, chunk, channels, size, size, generator=generator)
        for level, following in pairwise(levels):
            timestep = torch.full((batch, past.shape[1] + chunk), 1000.0 * level)
            timestep[:, : past.shape[1]] = 0.0
            frames = torch.cat([past, now], dim=1)
            flow = model.transformer.forward_train(frames, timestep, text, chunk=chunk)
            if guidance != 1.0:
                free = model.transformer.forward_train(frames, timestep, torch.zeros_like(text), chunk=chunk)
                flow = torch.lerp(free, flow, guidance)
            now = now + (following - level) * flow[:, past.shape[1] :]
        film = torch.cat([film, now], dim=1)
    return film


class Redraw:
    """Gives true latents the small faults of a transformer, for training a decoder that does not mind them.

    Latents are noised to a level at which nothing of the picture is lost but its finest parts, and denoised again.
    """

    LEVELS = (0.25, 0.6)

    def __init__(self, model: Denoiser, steps: int = 2) -> None:
        self.model = model.eval().requires_grad_(False)
        self.steps = steps

    @torch.no_grad()
    def __call__(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """The same films [B, F, C, h, w], drawn anew without a prompt."""
        low, high = self.LEVELS
        begin = low + (high - low) * float(torch.rand((), generator=generator))
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        now = torch.lerp(latents, noise, begin)
        text = self.model.text_encoder.encode([""] * len(latents))
        for level, following in pairwise(torch.linspace(begin, 0.0, self.steps + 1).tolist()):
            timestep = torch.full(latents.shape[:2], 1000.0 * level, device=latents.device)
            flow = self.model.transformer.forward_train(now, timestep, text, chunk=latents.shape[1])
            now = now + (following - level) * flow.float()
        return now


@torch.no_grad()
def save_grid(
    path: Path, autoencoder: AutoencoderTAEHV, latents: Tensor, columns: int = 8, zoom: int = 2
) -> np.ndarray:
    """Write a picture with one row a film and `columns` evenly spaced frames; returns all frames [B, T, H, W, 3]."""
    from PIL import Image  # a development dependency: the engine itself writes films, not pictures

    pixels = (autoencoder.decode(latents) * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()
    picks = np.linspace(0, pixels.shape[1] - 1, columns).round().astype(int)
    grid = np.concatenate([np.concatenate(list(film[picks]), axis=1) for film in pixels], axis=0)
    height, width = grid.shape[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid).resize((width * zoom, height * zoom), Image.Resampling.NEAREST).save(path)
    return pixels
