"""Random clips of the world for an autoencoder to learn from, whole or cut into squares near the object."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training import world

SWITCH_SHARE = 0.2
LATEST_START = 20 * world.FPS  # clips begin up to 20 s into their films
OBJECT_CROPS = 0.7  # share of crops that are centred near the object, where the detail is
CROPS = 2  # out of every clip: painting it costs as much as a third of learning from one of them


def render_batch(
    rng: np.random.Generator, clips: int, frames: int, crop: int | None, device: str, *, held_out: bool = False
) -> Tensor:
    """Random clips (B, T, 3, H, W) in 0..1 from anywhere in random films, cut into CROPS squares each when asked."""
    switching = int(rng.binomial(clips, SWITCH_SHARE))
    plain = [world.sample_spec(rng, held_out=held_out) for _ in range(clips - switching)]
    starts = [int(start) for start in rng.integers(0, LATEST_START, size=len(plain))]
    parts = [world.render(plain, frames, start=starts, device=device)] if plain else []
    centres = [world.positions(spec, frames, start)[frames // 2] for spec, start in zip(plain, starts, strict=True)]
    if switching:
        switches = [world.sample_switch(rng, frames) for _ in range(switching)]
        parts.append(world.render_switch(switches, frames, device=device))
        centres += [world.switch_positions(switch, frames)[frames // 2] for switch in switches]
    pixels = torch.cat(parts)
    if crop is None:
        return pixels
    room = pixels.shape[-1] - crop
    cut = []
    for clip, (x, y) in [*zip(pixels, centres, strict=True)] * CROPS:
        column, row = rng.integers(0, room + 1, size=2)
        if rng.random() < OBJECT_CROPS:
            column, row = (int(c * pixels.shape[-1] + crop * rng.uniform(-0.75, -0.25)) for c in (x, y))
        column, row = (int(np.clip(c, 0, room)) // 2 * 2 for c in (column, row))
        cut.append(clip[..., row : row + crop, column : column + crop])
    return torch.stack(cut)
