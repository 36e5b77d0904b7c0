"""Teaches the scorer on painted pictures, spoiled a little so that an autoencoder's output is judged fairly."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from training.atmosphere import SWAY, SWAY_SECONDS, VIEW, WEATHERS
from training.run import Curve, autocast, learning_rate, load_checkpoint, save_checkpoint, step_seed
from training.scorer import GRID, LAG, OBJECT, SCENERY, SIDE, Scorer
from training.world import FPS, MARGIN, SPAN, ClipSpec, object_stretch, positions, sample_spec, snapshots

logger = logging.getLogger(__name__)

CLIPS, PAIRS = 6, 2
"""Clips painted a step, and pairs of pictures of each: `LAG` pixel frames apart, for the camera."""
POOL, BATCH = 1024, 24
"""Pairs of pictures that are kept, and that a step learns from."""
PEAK_RATE = 3e-3
SEEN_OUTSIDE = 0.08
"""How far outside the picture an object's centre may be while enough of the object is in sight."""
LATEST = 400
"""Pictures come from the first so many pixel frames of their films."""
COMPANY, DRIFTING, WET = 0.4, 0.4, 0.4
"""Least shares of clips with a companion, a drifting camera and weather; all are rarer in the world."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What pictures show.

    Attributes:
        objects: [N, 2, 8] of the object and its companion: indices of `OBJECT`'s attributes; place (x, y); logarithm
            of the stretch; 1 when in sight.
        scenery: [N, 3] indices of `SCENERY`'s attributes.
        camera: [N, 3] 1 when it moves; how far the scenery has gone sideways and downwards since pixel frame 0.
    """

    objects: Tensor
    scenery: Tensor
    camera: Tensor

    def __getitem__(self, rows: Tensor) -> Truth:
        return Truth(self.objects[rows], self.scenery[rows], self.camera[rows])


def labels(specs: list[ClipSpec], frames: list[int]) -> Truth:
    """What each clip shows in one of its pixel frames."""
    objects, scenery, camera = [], [], []
    for spec, frame in zip(specs, frames, strict=True):
        width, height = object_stretch(spec, 1, frame)[0]
        pair = []
        for thing, aside in ((spec, (0.0, 0.0)), (spec.companion, spec.companion_offset)):
            x, y = _back(positions(spec, 1, frame)[0] + aside)
            inside = float(thing is not None and min(x, y, 1 - x, 1 - y) > -SEEN_OUTSIDE)
            looks = {"size": spec.size, "pattern": spec.pattern if thing is spec else "plain"}
            looks |= {name: getattr(thing or spec, name) for name in ("color", "shape")}
            names = [choices.index(looks[name]) for name, choices in OBJECT.items()]
            pair.append([*names, x, y, math.log(width / height), inside])
        objects.append(pair)
        scenery.append([choices.index(getattr(spec, name)) for name, choices in SCENERY.items()])
        turn = [math.tau * (frame / FPS + 60 * spec.phase) / seconds for seconds in SWAY_SECONDS]
        moves = float(spec.camera == "drifting")
        gone = SWAY[0] * math.sin(turn[0]), SWAY[1] * math.cos(turn[1])
        camera.append([moves, *(-moves * way / VIEW for way in gone)])
    return Truth(*(torch.tensor(part, dtype=torch.float32) for part in (objects, scenery, camera)))


def _back(place: np.ndarray) -> np.ndarray:
    """A place that is out of sight far away is in sight at the other side."""
    return np.remainder(place + MARGIN, SPAN) - MARGIN


def draw_clip(rng: np.random.Generator) -> ClipSpec:
    """A clip as training shows it: oftener than in the world itself there are companions, weather and camera moves."""
    company, drifting, wet = rng.random(3) < (COMPANY, DRIFTING, WET)
    spec = sample_spec(rng)
    while company and spec.companion is None:
        spec = sample_spec(rng)
    if drifting:
        spec = replace(spec, camera="drifting")
    return replace(spec, weather=str(rng.choice(WEATHERS[1:]))) if wet else spec


def paint_pairs(seed: int, step: int, clips: int) -> tuple[Tensor, Truth]:
    """The fresh pictures of a step, [clips * PAIRS, 2, 3, SIDE, SIDE] uint8, and [clips * PAIRS * 2] truths."""
    rng = step_seed(seed, step, "scorer pictures")
    specs = [draw_clip(rng) for _ in range(clips)]
    clocks = rng.integers(0, LATEST, (clips, PAIRS, 1)) + np.array([0, LAG])
    pictures = (snapshots(specs, clocks.reshape(clips, -1), size=SIDE) * 255).round().byte()
    of_each = [spec for spec in specs for _ in range(2 * PAIRS)]
    return pictures.view(clips * PAIRS, 2, 3, SIDE, SIDE), labels(of_each, clocks.ravel().tolist())


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


def loss_of(scorer: Scorer, pictures: Tensor, truth: Truth) -> tuple[Tensor, dict[str, float]]:
    """Sum of the losses of everything that is read off pairs of pictures [2 * N, 3, S, S], pair after pair.

    An object counts only where it is in sight.
    """
    place, inside = truth.objects[..., 4:6], truth.objects[..., 7]
    with autocast(pictures.device.type):
        read = scorer(pictures.contiguous(memory_format=torch.channels_last), (place, inside))
        moves = scorer.moves(read["fine"][::2], read["fine"][1::2])
    parts: dict[str, Tensor] = {}

    def of_objects(each: Tensor) -> Tensor:
        return (each * inside).sum() / len(inside)

    for column, name in enumerate(OBJECT):
        logits = read[name].float().flatten(0, 1)
        wanted = truth.objects[..., column].long().flatten()
        parts[name] = of_objects(F.cross_entropy(logits, wanted, reduction="none").view_as(inside))
    for column, name in enumerate(SCENERY):
        parts[name] = F.cross_entropy(read[name].float(), truth.scenery[:, column].long())
    cell = (place * GRID).long().clamp(0, GRID - 1)
    cell = cell[..., 1] * GRID + cell[..., 0]
    away = torch.cdist(place, scorer.cells.expand(len(place), -1, -1))
    others = (away.flip(1) < 0.2) & (inside.flip(1)[..., None] > 0)  # the other object is as hot, rightly
    others.scatter_(-1, cell[..., None], False)
    heat = read["heat"][:, None].expand(-1, 2, -1).masked_fill(others, -torch.inf)
    parts["heat"] = 0.2 * of_objects(
        F.cross_entropy(heat.flatten(0, 1), cell.flatten(), reduction="none").view_as(inside)
    )
    parts["place"] = 10 * of_objects((read["place"].float() - place).abs().sum(-1))
    parts["stretch"] = 2 * of_objects((read["stretch"].float() - truth.objects[..., 6]).abs())
    parts["present"] = 2 * F.binary_cross_entropy_with_logits(read["present"].float(), inside)
    way = truth.camera[1::2] - truth.camera[::2]
    parts["camera"] = F.binary_cross_entropy_with_logits(moves[:, 0], truth.camera[::2, 0])
    parts["way"] = (moves[:, 1:] - 20 * way[:, 1:]).abs().sum(-1).mean()
    return torch.stack(list(parts.values())).sum(), {name: float(value.detach()) for name, value in parts.items()}


def grow(scorer: Scorer, path: Path) -> None:
    """Take over what fits of an earlier scorer's weights; of a head that has fewer choices, these as the first ones."""
    mine, earlier = scorer.state_dict(), load_file(path)
    for name, value in earlier.items():
        if name in mine and mine[name].shape[1:] == value.shape[1:] and mine[name].ndim:
            count = min(len(value), len(mine[name]))
            mine[name][:count] = value[:count].to(mine[name].dtype)
    scorer.load_state_dict(mine)


def train_scorer(
    out: Path,
    *,
    steps: int = 1200,
    seed: int = 0,
    start_from: Path | None = None,
    log_every: int = 50,
    save_every: int = 100,
) -> Scorer:
    """Train the scorer on the processor and write it; a killed run goes on from its last checkpoint.

    Args:
        out: folder of `scorer.safetensors`, `scorer.jsonl` (curve) and `scorer.pt` (checkpoint).
        steps: of 24 fresh pictures and a batch of 48 each.
        seed: of weights and data.
        start_from: an earlier scorer's weights to `grow` from; of a smaller world perhaps.
        log_every: steps between lines of the curve.
        save_every: steps between checkpoints.

    Returns:
        The trained scorer, as it was written.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scorer = Scorer()
    if start_from is not None:
        grow(scorer, start_from)
    scorer.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(scorer.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    curve = Curve(out / "scorer.jsonl")
    fresh = CLIPS * PAIRS
    pictures = torch.empty(POOL, 2, 3, SIDE, SIDE, dtype=torch.uint8)
    truth = Truth(torch.empty(POOL, 2, 2, 8), torch.empty(POOL, 2, len(SCENERY)), torch.empty(POOL, 2, 3))

    def keep(step: int) -> None:
        """Paint a step's pictures over the oldest ones."""
        painted, shown = paint_pairs(seed, step, CLIPS)
        slots = torch.arange(step * fresh, (step + 1) * fresh) % POOL
        pictures[slots] = painted
        for kept, new in ((truth.objects, shown.objects), (truth.scenery, shown.scenery), (truth.camera, shown.camera)):
            kept[slots] = new.view(fresh, 2, *new.shape[1:])

    saved = load_checkpoint(out / "scorer.pt")
    begin = 0
    if saved and saved["step"] <= steps:
        scorer.load_state_dict(saved["scorer"])
        optimiser.load_state_dict(saved["optimiser"])
        begin = saved["step"]
        for step in range(max(0, begin - math.ceil(POOL / fresh)), begin):
            keep(step)
    for step in range(begin, steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(PEAK_RATE, step, step / steps, 50)
        keep(step)
        rng = step_seed(seed, step, "scorer")
        chosen = torch.from_numpy(rng.integers(0, min((step + 1) * fresh, POOL), BATCH))
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        some = Truth(*(part[chosen].flatten(0, 1) for part in (truth.objects, truth.scenery, truth.camera)))
        loss, parts = loss_of(scorer, spoil(pictures[chosen].flatten(0, 1).float() / 255, generator), some)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % log_every == 0 or step == steps - 1:
            curve.add(step=step, loss=float(loss.detach()), **parts)
            logger.info("scorer step %d of %d: loss %.3f", step, steps, float(loss.detach()))
        if (step + 1) % save_every == 0:
            state = {"step": step + 1, "scorer": scorer.state_dict(), "optimiser": optimiser.state_dict()}
            save_checkpoint(out / "scorer.pt", state)
    scorer.save(out / "scorer.safetensors")
    return Scorer.load(out / "scorer.safetensors")
