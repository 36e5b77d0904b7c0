"""How well an autoencoder gives back what it was shown: decibels, sharpness, and a page of pictures to look at.

Decibels alone prefer a soft picture to a crisp one that is half a pixel off. So the edges are measured as well: how
much of them there is, and how far the picture swings beyond what is near it in the truth.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.taehv import AutoencoderTAEHV
from training import world
from training.run import step_seed

NEAR = 5
"""Side of the square of true pixels whose range a pixel may have without counting as overshoot."""
CHANGE, AROUND = 0.08, 9
"""A place moves where a pixel within this square changes by more than this from a frame to the next."""
SCALE_WEIGHT = 0.1
"""Of what keeps latents near unit spread, beside the picture's loss."""
LOOKS: tuple[dict[str, str], ...] = (
    {"shape": "star", "scene": "day"},
    {"shape": "cross", "scene": "meadow", "size": "small"},
    {"shape": "diamond", "scene": "desert"},
    {"shape": "flower", "scene": "sea", "pattern": "striped", "size": "big"},
    {"shape": "heart", "scene": "snow", "weather": "clear"},
    {"shape": "square", "scene": "city", "weather": "rain"},
    {"shape": "star", "scene": "night", "size": "small"},
    {"shape": "triangle", "scene": "desert", "hour": "night"},
    {"shape": "ring", "scene": "sunset", "pattern": "dotted", "size": "big"},
)
"""What the page of pictures shows, one film a row: every kind of fine detail there is in the world."""


def psnr(made: Tensor, pixels: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of whole clips in 0..1, averaged over the clips."""
    error = (made.clamp(0, 1) - pixels).square().flatten(1).mean(dim=1)
    return float((-10.0 * error.clamp_min(1e-10).log10()).mean())


def edge_energy(made: Tensor, pixels: Tensor) -> float:
    """Mean absolute Laplacian of the grey picture over the truth's, both (..., 3, H, W) in 0..1.

    1 is as sharp as the truth, less is blurred, more is noise or ringing.
    """
    return float(_laplacian(made.clamp(0, 1)).abs().mean() / _laplacian(pixels).abs().mean().clamp_min(1e-9))


def overshoot(made: Tensor, pixels: Tensor) -> float:
    """How far a pixel leaves the range of the true pixels near it, on average and in 256ths; 0 for the truth itself.

    A blurred edge leaves the range about as far as a ringing one, so read it beside `edge_energy`.
    """
    frames, truth = made.clamp(0, 1).flatten(0, -4), pixels.flatten(0, -4)
    high = F.max_pool2d(truth, NEAR, stride=1, padding=NEAR // 2)
    low = -F.max_pool2d(-truth, NEAR, stride=1, padding=NEAR // 2)
    return float(((frames - high).clamp_min(0) + (low - frames).clamp_min(0)).mean() * 256)


def moving(pixels: Tensor) -> Tensor:
    """Where clips (B, T, 3, H, W) change from frame to frame, and a little around it: 1 or 0, (B, T, 1, H, W)."""
    change = F.pad(pixels.diff(dim=1).abs().amax(dim=2, keepdim=True), (0, 0, 0, 0, 0, 0, 1, 1))
    either = torch.maximum(change[:, 1:], change[:, :-1])  # to the frame before or after
    around = F.max_pool2d(either.flatten(0, 1), AROUND, stride=1, padding=AROUND // 2)
    return (around > CHANGE).to(pixels.dtype).view_as(either)


def moving_psnr(made: Tensor, pixels: Tensor) -> float:
    """PSNR in dB over what is `moving` in all clips together."""
    where = moving(pixels)
    error = (made.clamp(0, 1) - pixels).square().mean(dim=2, keepdim=True)
    return float(-10.0 * ((error * where).sum() / where.sum().clamp_min(1)).clamp_min(1e-10).log10())


def local_edges(pixels: Tensor) -> Tensor:
    """Mean absolute Laplacian in overlapping squares of 8 x 8, channel by channel: (B, T, 3, H, W) to (B*T, 3, ...)."""
    return F.avg_pool2d(_curvature(pixels.flatten(0, 1)).abs(), 8, 4)


def _laplacian(pixels: Tensor) -> Tensor:
    return _curvature(pixels.mean(dim=-3))


def _curvature(plane: Tensor) -> Tensor:
    beside = plane[..., :-2, 1:-1] + plane[..., 2:, 1:-1] + plane[..., 1:-1, :-2] + plane[..., 1:-1, 2:]
    return beside - 4 * plane[..., 1:-1, 1:-1]


@torch.no_grad()
def figures(model: AutoencoderTAEHV, pixels: Tensor) -> dict[str, float]:
    """Decibels and sharpness of clips (B, T, 3, H, W) after the model, one clip at a time, as a curve's figures."""
    made = torch.cat([model(clip[None])[0] for clip in pixels]).float()
    return {
        "held_out_psnr": psnr(made, pixels),
        "held_out_moving_psnr": moving_psnr(made, pixels),
        "held_out_edges": edge_energy(made, pixels),
        "held_out_overshoot": overshoot(made, pixels),
    }


def look_clips(frames: int = 9) -> tuple[list[world.ClipSpec], list[int]]:
    """Clips of LOOKS among the combinations that training never shows, and the pixel frames they begin at."""
    specs, starts = [], []
    for row, look in enumerate(LOOKS):
        rng = step_seed(2**31, row, "look")
        while True:
            spec = replace(world.sample_spec(rng, held_out=True, simple=True), **look)
            inside = np.abs(world.positions(spec, frames, 16) - 0.5).max() < 0.35
            if inside and world.is_held_out(spec.color, spec.shape, spec.motion, spec.scene):
                break
        specs.append(spec)
        starts.append(16)
    return specs, starts


@torch.no_grad()
def save_page(path: Path, model: AutoencoderTAEHV, frames: int = 9, columns: int = 2, zoom: int = 2) -> None:
    """Write a picture with a row for each of LOOKS: `columns` true frames, each with what became of it to its right."""
    from PIL import Image  # a development dependency: the engine itself writes films, not pictures

    specs, starts = look_clips(frames)
    true = world.render(specs, frames, start=starts)
    made = torch.cat([model(clip[None].to(model.device))[0] for clip in true]).clamp(0, 1).cpu()
    picks = np.linspace(frames // 2, frames - 1, columns).round().astype(int)
    rows = [
        torch.cat([frame for pick in picks for frame in (one[pick], other[pick])], dim=-1)
        for one, other in zip(true, made, strict=True)
    ]
    grid = (torch.cat(rows, dim=-2) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    height, width = grid.shape[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid).resize((width * zoom, height * zoom), Image.Resampling.NEAREST).save(path)


def scale_penalty(latents: Tensor) -> Tensor:
    """Distance of each channel's mean and spread from 0 and 1, for latents (B, F, C, h, w)."""
    std, mean = torch.std_mean(latents, dim=(0, 1, 3, 4))
    return mean.square().mean() + (std - 1.0).square().mean()
