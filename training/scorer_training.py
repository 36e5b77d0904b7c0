"""Teaches the scorer on painted pictures, spoiled a little so that an autoencoder's output is judged fairly."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.run import Curve, learning_rate, step_seed
from training.scorer import ATTRIBUTES, GRID, Scorer
from training.world import ClipSpec, object_stretch, positions, render, sample_spec

logger = logging.getLogger(__name__)

POOL, FRESH, BATCH = 4096, 24, 48
PEAK_RATE = 3e-3
SEEN_OUTSIDE = 0.08
"""How far outside the picture an object's centre may be while enough of the object is in sight."""
LATEST = 400
"""Pictures come from the first so many pixel frames of their films."""


def labels(specs: list[ClipSpec], frames: list[int]) -> Tensor:
    """[N, 8]: indices of color, shape, size, scene; place (x, y); logarithm of the stretch; 1 when in sight."""
    rows = []
    for spec, frame in zip(specs, frames, strict=True):
        x, y = positions(spec, 1, frame)[0]
        width, height = object_stretch(spec, 1, frame)[0]
        inside = float(min(x, y, 1 - x, 1 - y) > -SEEN_OUTSIDE)
        names = [choices.index(getattr(spec, name)) for name, choices in ATTRIBUTES.items()]
        rows.append([*names, x, y, np.log(width / height), inside])
    return torch.tensor(rows, dtype=torch.float32)


def spoil(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """What decoding and colour management do to pictures [N, 3, S, S]: softness, noise, shifted colours."""
    count, side = pictures.shape[0], pictures.shape[-1]

    def chance(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    third = count // 3
    coarse = int(32 + 48 * chance(1))
    soft = F.interpolate(pictures[:third], (coarse, coarse), mode="bilinear", antialias=True)
    soft = F.interpolate(soft, (side, side), mode="bicubic")
    width = 0.4 + 1.1 * float(chance(1))
    tap = torch.exp(-((torch.arange(-3, 4) / width) ** 2) / 2)
    kernel = (tap[:, None] * tap / tap.sum() ** 2).expand(3, 1, 7, 7)
    blurred = F.conv2d(F.pad(pictures[third : 2 * third], (3, 3, 3, 3), mode="replicate"), kernel, groups=3)
    out = torch.cat([soft, blurred, pictures[2 * third :]])
    out = out * (0.93 + 0.14 * chance(count, 3, 1, 1)) + 0.06 * (chance(count, 3, 1, 1) - 0.5)
    grey = out.mean(1, keepdim=True)
    out = grey + (out - grey) * (0.8 + 0.3 * chance(count, 1, 1, 1))
    patches = torch.randn(count, 3, side // 8, side // 8, generator=generator)
    out = out + 0.03 * chance(count, 1, 1, 1) * F.interpolate(patches, (side, side), mode="bilinear")
    noise = torch.randn(out.shape, generator=generator)
    return (out + 0.04 * chance(count, 1, 1, 1) ** 2 * noise).clamp(0, 1)


def loss_of(read: dict[str, Tensor], target: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Sum of the losses of everything that is read; the object counts only where it is seen."""
    inside = target[:, 7]
    parts: dict[str, Tensor] = {}
    for column, name in enumerate(ATTRIBUTES):
        each = F.cross_entropy(read[name], target[:, column].long(), reduction="none")
        parts[name] = each.mean() if name == "scene" else (each * inside).mean()
    cell = (target[:, 4:6] * GRID).long().clamp(0, GRID - 1)
    parts["heat"] = (
        0.2 * (F.cross_entropy(read["heat"], cell[:, 1] * GRID + cell[:, 0], reduction="none") * inside).mean()
    )
    parts["place"] = 10 * ((read["place"] - target[:, 4:6]).abs().sum(-1) * inside).mean()
    parts["stretch"] = 2 * ((read["stretch"] - target[:, 6]).abs() * inside).mean()
    parts["present"] = F.binary_cross_entropy_with_logits(read["present"], inside)
    return torch.stack(list(parts.values())).sum(), {name: float(value.detach()) for name, value in parts.items()}


def train_scorer(out: Path, *, steps: int = 2400, seed: int = 0, log_every: int = 50) -> Scorer:
    """Train the scorer on the processor and write it.

    Args:
        out: folder of `scorer.safetensors` and `scorer.jsonl` (curve).
        steps: of 24 fresh pictures and a batch of 48 each.
        seed: of weights and data.
        log_every: steps between lines of the curve.

    Returns:
        The trained scorer, as it was written.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scorer = Scorer()
    optimiser = torch.optim.AdamW(scorer.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    curve = Curve(out / "scorer.jsonl")
    pictures, targets = torch.empty(POOL, 3, 96, 96, dtype=torch.uint8), torch.empty(POOL, 8)
    made = 0
    for step in range(steps):
        rng = step_seed(seed, step, "scorer")
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(PEAK_RATE, step, step / steps, 50)
        fresh = FRESH if step else 8 * FRESH
        specs = [sample_spec(rng) for _ in range(fresh)]
        frames = [int(frame) for frame in rng.integers(0, LATEST, fresh)]
        slots = torch.arange(made, made + fresh) % POOL
        pictures[slots] = (render(specs, 1, start=frames)[:, 0] * 255).round().byte()
        targets[slots] = labels(specs, frames)
        made += fresh
        chosen = torch.from_numpy(rng.integers(0, min(made, POOL), BATCH))
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        loss, parts = loss_of(scorer(spoil(pictures[chosen].float() / 255, generator)), targets[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % log_every == 0 or step == steps - 1:
            curve.add(step=step, loss=float(loss.detach()), **parts)
            logger.info("scorer step %d of %d: loss %.3f", step, steps, float(loss.detach()))
    scorer.save(out / "scorer.safetensors")
    return Scorer.load(out / "scorer.safetensors")
