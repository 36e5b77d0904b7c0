"""Judges what a generated film shows (colour, shape, motion, scene), so that adherence is a number, not a taste.

A small network, taught on the painted world alone and never part of a training loss, reads every pixel frame; the
motion is then decided by fitting the paths an object can take to the places it was read at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.paths import FEWEST, fit_motion
from training.world import COLORS, SCENES, SHAPES, SIZES, ClipSpec

WEIGHTS = Path(__file__).with_name("scorer.safetensors")
SIDE, GRID = 96, 12
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "color": tuple(COLORS),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "scene": SCENES,
}


@dataclass(frozen=True, slots=True)
class Reading:
    """What is seen in every pixel frame of a film, [T, ...] each.

    Attributes:
        logits: attribute (a key of `ATTRIBUTES`) -> [T, choices].
        place: [T, 2] centre of the object, 0..1, y downwards.
        present: [T] probability that the object's centre is in the picture.
        stretch: [T] width of the object over its height, 1 when it faces the viewer.
    """

    logits: dict[str, np.ndarray]
    place: np.ndarray
    present: np.ndarray
    stretch: np.ndarray


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a film shows.

    Attributes:
        color, shape, size, motion, scene: the likeliest of each; motion is "unseen" with too few frames.
        confidences: probability of each of them, 0..1; the motion's compares it with the next best path.
        speed: measured speed over the world's own for that motion; 0 for what does not move.
        track: [T, 2] places of the object, NaN where it is out of sight.
    """

    color: str
    shape: str
    size: str
    motion: str
    scene: str
    confidences: dict[str, float]
    speed: float
    track: np.ndarray


def _convolution(before: int, after: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


class Scorer(nn.Module):
    """Reads pixel frames: a heat map finds the object, and what it shows is read where the map is hot."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            _convolution(3, 16, 5, 2),
            _convolution(16, 32, 3, 2),
            _convolution(32, 48, 3, 1),
            _convolution(48, 64, 3, 2),
        )
        self.coarse = nn.ModuleList([_convolution(64, 64, 3, 1), _convolution(64, 64, 3, 1)])
        self.heat = nn.Conv2d(64, 1, 1)
        self.object_heads = nn.ModuleDict(
            {name: nn.Linear(64, len(ATTRIBUTES[name])) for name in ("color", "shape", "size")}
        )
        self.geometry = nn.Linear(64, 3)
        self.scene = nn.Linear(64, len(SCENES))
        self.presence = nn.Linear(64, 1)
        cells = (torch.arange(GRID) + 0.5) / GRID
        self.register_buffer("cells", torch.cartesian_prod(cells, cells).flip(-1), persistent=False)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Read frames [N, 3, 96, 96], 0..1.

        Returns:
            "color", "shape", "size", "scene": logits [N, choices]; "heat": logits [N, GRID * GRID] of the object's
            cell; "place": [N, 2]; "stretch": [N] logarithm; "present": [N] logit.
        """
        features = self.fine(frames * 2 - 1)
        for layer in self.coarse:
            features = features + layer(features)
        heat = self.heat(features).flatten(1)
        seen = torch.einsum("nk,nck->nc", heat.softmax(-1), features.flatten(2))
        geometry = self.geometry(seen)
        read = {name: head(seen) for name, head in self.object_heads.items()}
        read["scene"] = self.scene(features.mean((2, 3)))
        read["heat"] = heat
        read["place"] = heat.softmax(-1) @ self.cells + geometry[:, :2]
        read["stretch"] = geometry[:, 2]
        read["present"] = self.presence(seen)[:, 0]
        return read

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """The trained scorer: the one that ships, or the one at `path`.

        Raises:
            FileNotFoundError: there is none.
        """
        path = path or WEIGHTS
        if not path.is_file():
            raise FileNotFoundError(f"There is no scorer at {path}; train one with `python -m training scorer`.")
        scorer = cls()
        scorer.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        return scorer.eval()

    def save(self, path: Path) -> None:
        """Write the weights in half precision."""
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            n: v.half().contiguous() for n, v in self.state_dict().items() if not n.endswith("num_batches_tracked")
        }
        save_file(state, path)

    @torch.inference_mode()
    def read(self, video: Tensor, batch: int = 64) -> Reading:
        """Read every pixel frame of a film [T, 3, H, W], 0..1 (or uint8), of any size."""
        if video.ndim != 4 or video.shape[1] != 3:
            raise ValueError(f"A film to judge is [T, 3, H, W], not {list(video.shape)}; move the colours second.")
        parts: list[dict[str, Tensor]] = []
        for frames in video.to(next(self.parameters()).device).split(batch):
            pixels = frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()
            if pixels.shape[-2:] != (SIDE, SIDE):
                pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
            parts.append(self(pixels.clamp(0, 1)))
        whole = {name: torch.cat([part[name] for part in parts]).cpu().double().numpy() for name in parts[0]}
        return Reading(
            {name: whole[name] for name in ATTRIBUTES},
            whole["place"],
            1 / (1 + np.exp(-whole["present"])),
            np.exp(whole["stretch"]),
        )

    def judge(self, video: Tensor) -> Verdict:
        """Say what a film [T, 3, H, W], 0..1 (or uint8), shows.

        The motion needs 17 pixel frames, and 33 for an object that is on its way around the picture meanwhile.
        """
        return verdict(self.read(video))


def verdict(reading: Reading) -> Verdict:
    """Weigh a film's frames into one judgement; a frame counts by how well its object is seen."""
    visible = reading.present > 0.5
    weight = reading.present * np.clip(reading.stretch, 0.05, 1)
    said: dict[str, str] = {}
    sure: dict[str, float] = {}
    for name, choices in ATTRIBUTES.items():
        logits = reading.logits[name]
        chance = np.exp(logits - logits.max(-1, keepdims=True))
        chance /= chance.sum(-1, keepdims=True)
        share = np.ones(len(weight)) if name == "scene" else weight + 1e-6
        mean = (chance * share[:, None]).sum(0) / share.sum()
        said[name], sure[name] = choices[int(mean.argmax())], float(mean.max())
    whole = visible & np.all((reading.place > 0) & (reading.place < 1), axis=1)
    enough = whole.sum() >= FEWEST  # an object half outside is placed less exactly
    fit = fit_motion(reading.place, whole if enough else visible, reading.stretch)
    return Verdict(
        **said,
        motion=fit.motion,
        confidences={**sure, "motion": fit.confidence},
        speed=fit.speed,
        track=np.where(visible[:, None], reading.place, np.nan),
    )


def adherence(videos: Sequence[Tensor], specs: Sequence[ClipSpec], scorer: Scorer | None = None) -> dict[str, float]:
    """How well films show what was asked for.

    Args:
        videos: [T, 3, H, W] each, 0..1 or uint8.
        specs: what each should show.
        scorer: the one that ships when None.

    Returns:
        Share of films that are right in "color", "shape", "size", "motion", "scene" and in "all" but size; "speed",
        the median speed over the world's own among moving objects whose motion is right (NaN when there is none).
    """
    if not videos or len(videos) != len(specs):
        raise ValueError(f"{len(videos)} films and {len(specs)} clips; give one clip for every film.")
    scorer = scorer or Scorer.load()
    found = [scorer.judge(video) for video in videos]
    names = ("color", "shape", "size", "motion", "scene")
    right = {name: [getattr(v, name) == getattr(s, name) for v, s in zip(found, specs, strict=True)] for name in names}
    asked = [right[name] for name in names if name != "size"]
    speeds = [v.speed for v, ok in zip(found, right["motion"], strict=True) if ok and v.speed > 0]
    return {
        **{name: float(np.mean(right[name])) for name in names},
        "all": float(np.mean(np.all(asked, axis=0))),
        "speed": float(np.median(speeds)) if speeds else math.nan,
    }
