"""Judges what a generated film shows (objects, scenery, motion, camera), so that adherence is a number, not a taste.

A small network, taught on the painted world alone and never part of a training loss, reads every pixel frame; the
motion is then decided by fitting the paths an object can take to the places it was read at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.atmosphere import HOURS, WEATHERS
from training.pairs import Sight, choice, joined_track, ordered, pair_of, track, weight
from training.paths import FEWEST, fit_motion
from training.shapes import PATTERNS
from training.world import CAMERAS, COLORS, SCENES, SHAPES, SIZES, ClipSpec, Companion

WEIGHTS = Path(__file__).with_name("scorer.safetensors")
SIDE, GRID = 96, 12
OBJECT: dict[str, tuple[str, ...]] = {
    "color": tuple(COLORS),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "pattern": PATTERNS,
}
SCENERY: dict[str, tuple[str, ...]] = {"scene": SCENES, "weather": WEATHERS, "hour": HOURS}
ATTRIBUTES: dict[str, tuple[str, ...]] = {**OBJECT, **SCENERY}
"""What is read in every pixel frame: of an object, and of everything around."""
ALONE = ("color", "shape", "size", "motion", "scene", "pattern", "weather", "hour", "camera")
"""What a film is judged by besides its companion."""
REACH, FAR = 0.2, 0.25
"""How far around an object's cell its features lie, and how far the next object is at least, in picture sizes."""
LAG = 16
"""Pixel frames over which the camera's motion is looked for."""
TURNS: dict[str, str] = {"above": "below", "below": "above", "left": "right", "right": "left"}


@dataclass(frozen=True, slots=True)
class Reading:
    """What is seen in every pixel frame of a film, [T, ...] each.

    Attributes:
        logits: attribute (a key of `ATTRIBUTES`) -> [T, choices]; an object's are those of the upper one or the left
            one in a frame that shows two.
        place, present, stretch: of that object, as of `Sight`.
        other: the second object, present in the frames that show two side by side.
        drifting: [T] logit that the camera moves between this frame and the one `LAG` later, NaN for the last ones.
    """

    logits: dict[str, np.ndarray]
    place: np.ndarray
    present: np.ndarray
    stretch: np.ndarray
    other: Sight | None = None
    drifting: np.ndarray | None = None

    def part(self, start: int, stop: int) -> Reading:
        """What was read in some of the frames."""
        cut = slice(start, stop)
        drifting = None if self.drifting is None else self.drifting[cut].copy()
        if drifting is not None:
            drifting[max(0, len(drifting) - LAG) :] = np.nan
        return Reading(
            {name: values[cut] for name, values in self.logits.items()},
            self.place[cut],
            self.present[cut],
            self.stretch[cut],
            self.other and self.other.part(start, stop),
            drifting,
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a film shows.

    Attributes:
        color, shape, size, motion, scene: the likeliest of each; motion is "unseen" with too few frames. Of two
            objects it is the upper one, or the left one of two side by side.
        confidences: probability of each of them, 0..1; the motion's compares it with the next best path.
        speed: measured speed over the world's own for that motion; 0 for what does not move.
        track: [T, 2] places of the object, NaN where it is out of sight.
        pattern, weather, hour: the likeliest of each.
        camera: "fixed" or "drifting", "unseen" in a film of at most `LAG` frames.
        companion: the second object, if there is one; the relation is "above" or "left" until `facing` turns it.
        companion_pattern: its pattern.
    """

    color: str
    shape: str
    size: str
    motion: str
    scene: str
    confidences: dict[str, float]
    speed: float
    track: np.ndarray
    pattern: str = "plain"
    weather: str = "clear"
    hour: str = "usual"
    camera: str = "unseen"
    companion: Companion | None = None
    companion_pattern: str = "plain"

    def facing(self, asked: ClipSpec) -> Verdict:
        """The same verdict, its two objects in the order in which the clip that was asked for names them."""
        if self.companion is None or asked.companion is None or asked.companion.relation in ("above", "left"):
            return self
        return replace(
            self,
            color=self.companion.color,
            shape=self.companion.shape,
            pattern=self.companion_pattern,
            companion=Companion(self.color, self.shape, TURNS[self.companion.relation]),
            companion_pattern=self.pattern,
        )


def _convolution(before: int, after: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


class Scorer(nn.Module):
    """Reads pixel frames: a heat map finds up to two objects, and what they show is read where the map is hot."""

    cells: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            _convolution(3, 16, 5, 2),
            _convolution(16, 32, 3, 2),
            _convolution(32, 48, 3, 1),
            _convolution(48, 64, 3, 2),
        )
        self.coarse = nn.ModuleList([_convolution(64, 64, 3, 1) for _ in range(3)])
        self.heat = nn.Conv2d(64, 1, 1)
        self.object_heads = nn.ModuleDict({name: nn.Linear(64, len(choices)) for name, choices in OBJECT.items()})
        self.geometry = nn.Linear(64, 3)
        self.presence = nn.Linear(64, 1)
        self.scene, self.weather, self.hour = (nn.Linear(64, len(choices)) for choices in SCENERY.values())
        self.movement = nn.Sequential(
            _convolution(96, 48, 1, 1), _convolution(48, 48, 3, 2), _convolution(48, 48, 3, 1)
        )
        self.camera = nn.Linear(48, 3)
        cells = (torch.arange(GRID) + 0.5) / GRID
        self.register_buffer("cells", torch.cartesian_prod(cells, cells).flip(-1), persistent=False)

    def forward(self, frames: Tensor, known: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
        """Read frames [N, 3, 96, 96], 0..1.

        Args:
            frames: the pictures.
            known: places [N, 2, 2] of two objects and [N, 2] whether each is in sight: they are read there, while
                training, and others where the map is hot elsewhere.

        Returns:
            Of the two objects: "color", "shape", "size", "pattern": logits [N, 2, choices]; "heat": logits
            [N, GRID * GRID] of their cells; "place": [N, 2, 2]; "stretch": [N, 2] logarithm; "present": [N, 2] logit.
            Of everything: "scene", "weather", "hour": logits [N, choices]; "fine": features for `moves`.
        """
        *finest, middle = self.fine
        fine = frames * 2 - 1
        for layer in finest:
            fine = layer(fine)
        features = middle(fine)
        for layer in self.coarse:
            features = features + layer(features)
        heat = self.heat(features).flatten(1).float()
        features = features.flatten(2).float()
        near = self._windows(heat.detach(), known)
        share = heat[:, None].masked_fill(~near, -torch.inf).softmax(-1)
        seen = share @ features.transpose(1, 2)
        geometry = self.geometry(seen)
        whole = features.mean(2)
        return {
            **{name: head(seen) for name, head in self.object_heads.items()},
            "scene": self.scene(whole),
            "weather": self.weather(whole),
            "hour": self.hour(whole),
            "heat": heat,
            "place": share @ self.cells + geometry[..., :2],
            "stretch": geometry[..., 2],
            "present": self.presence(seen)[..., 0],
            "fine": fine,
        }

    def _windows(self, heat: Tensor, known: tuple[Tensor, Tensor] | None) -> Tensor:
        """Cells [N, 2, GRID * GRID] around each object; the second one is found where the first one is not."""
        count = heat.shape[0]
        place, inside = known or (heat.new_zeros(count, 2, 2), heat.new_zeros(count, 2))
        away = torch.cdist(place, self.cells.expand(count, -1, -1))
        taken = ((away < FAR) & (inside[..., None] > 0)).any(1)
        windows = []
        for number in range(2):
            hottest = heat.masked_fill(taken, -torch.inf).argmax(-1)
            cell = torch.where(inside[:, number] > 0, away[:, number].argmin(-1), hottest)
            away_from = torch.cdist(self.cells[cell][:, None], self.cells.expand(count, -1, -1))[:, 0]
            windows.append(away_from < REACH)
            taken = taken | (away_from < FAR)
        return torch.stack(windows, 1)

    def moves(self, fine: Tensor, later: Tensor) -> Tensor:
        """Logit that the camera moves and how far the scenery goes (x, y), [N, 3], between the features of frames."""
        return self.camera(self.movement(torch.cat([fine, later], 1)).mean((2, 3)).float())

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
        drifting = np.full(len(video), np.nan)
        late: Tensor | None = None
        for start, frames in enumerate(video.to(next(self.parameters()).device).split(batch)):
            pixels = frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()
            if pixels.shape[-2:] != (SIDE, SIDE):
                pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
            read = self(pixels.clamp(0, 1))
            fine = read.pop("fine") if late is None else torch.cat([late, read.pop("fine")])
            if len(fine) > LAG:
                first = start * batch - (0 if late is None else len(late))
                moves = self.moves(fine[:-LAG], fine[LAG:])[:, 0]
                drifting[first : first + len(moves)] = moves.cpu().double().numpy()
            late = fine[-LAG:]
            parts.append(read)
        whole = {name: torch.cat([part[name] for part in parts]).cpu().double().numpy() for name in parts[0]}
        first, other = ordered(_sight(whole, 0), _sight(whole, 1))
        logits = {**first.logits, **{name: whole[name] for name in SCENERY}}
        return Reading(logits, first.place, first.present, first.stretch, other, drifting)

    def judge(self, video: Tensor) -> Verdict:
        """Say what a film [T, 3, H, W], 0..1 (or uint8), shows.

        The motion needs 17 pixel frames, and 33 for an object that is on its way around the picture meanwhile.
        """
        return verdict(self.read(video))


def _sight(whole: dict[str, np.ndarray], number: int) -> Sight:
    return Sight(
        {name: whole[name][:, number] for name in OBJECT},
        whole["place"][:, number],
        1 / (1 + np.exp(-whole["present"][:, number])),
        np.exp(whole["stretch"][:, number]),
    )


def verdict(reading: Reading) -> Verdict:
    """Weigh a film's frames into one judgement; a frame counts by how well its object is seen."""
    one = Sight({name: reading.logits[name] for name in OBJECT}, reading.place, reading.present, reading.stretch)
    pair = pair_of(one, reading.other) if reading.other else None
    one = pair[0] if pair else one
    shares = {name: choice(one.logits[name], weight(one)) for name in OBJECT}
    shares |= {name: choice(reading.logits[name], np.ones(len(one.present))) for name in SCENERY}
    said = {name: choices[int(shares[name].argmax())] for name, choices in ATTRIBUTES.items()}
    sure = {name: float(share.max()) for name, share in shares.items()}
    companion, companion_pattern = None, "plain"
    if pair:
        two, relation = pair[1:]
        second = {name: choice(two.logits[name], weight(two)) for name in OBJECT}
        names = {name: OBJECT[name][int(share.argmax())] for name, share in second.items()}
        companion, companion_pattern = Companion(names["color"], names["shape"], relation), names["pattern"]
        sure["companion"] = float(min(second["color"].max(), second["shape"].max()))
    visible = one.present > 0.5
    place, seen, whole = (joined_track if pair else track)(*(pair or (one,)))
    enough = whole.sum() >= FEWEST  # an object half outside is placed less exactly
    fit = fit_motion(place, whole if enough else seen, one.stretch)
    camera, moving = "unseen", 0.5
    if reading.drifting is not None and not np.isnan(reading.drifting).all():
        moving = float(1 / (1 + np.exp(-np.nanmean(reading.drifting))))
        camera = CAMERAS[moving > 0.5]
    return Verdict(
        **said,
        motion=fit.motion,
        confidences={**sure, "motion": fit.confidence, "camera": max(moving, 1 - moving)},
        speed=fit.speed,
        track=np.where(visible[:, None], one.place, np.nan),
        camera=camera,
        companion=companion,
        companion_pattern=companion_pattern,
    )


def adherence(videos: Sequence[Tensor], specs: Sequence[ClipSpec], scorer: Scorer | None = None) -> dict[str, float]:
    """How well films show what was asked for.

    Args:
        videos: [T, 3, H, W] each, 0..1 or uint8.
        specs: what each should show.
        scorer: the one that ships when None.

    Returns:
        Share of films that are right in "color", "shape", "size", "motion", "scene", "pattern", "weather", "hour" and
        "camera", in "companion" (there or not, and all of it right), in "companion_color", "companion_shape" and
        "relation" of the films that should show one (NaN when there is none), and in "all" of color, shape, motion
        and scene; "speed", the median speed over the world's own among moving objects whose motion is right (NaN
        when there is none).
    """
    if not videos or len(videos) != len(specs):
        raise ValueError(f"{len(videos)} films and {len(specs)} clips; give one clip for every film.")
    scorer = scorer or Scorer.load()
    found = [scorer.judge(video).facing(spec) for video, spec in zip(videos, specs, strict=True)]
    pairs = list(zip(found, specs, strict=True))
    right = {name: [getattr(v, name) == getattr(s, name) for v, s in pairs] for name in (*ALONE, "companion")}
    asked = [right[name] for name in ("color", "shape", "motion", "scene")]
    speeds = [v.speed for v, ok in zip(found, right["motion"], strict=True) if ok and v.speed > 0]
    company = [(v.companion, s.companion) for v, s in pairs if s.companion]
    of_companion = {
        name: [c is not None and getattr(c, part) == getattr(s, part) for c, s in company]
        for name, part in (("companion_color", "color"), ("companion_shape", "shape"), ("relation", "relation"))
    }
    return {
        **{name: float(np.mean(flags)) for name, flags in right.items()},
        **{name: float(np.mean(flags)) if flags else math.nan for name, flags in of_companion.items()},
        "all": float(np.mean(np.all(asked, axis=0))),
        "speed": float(np.median(speeds)) if speeds else math.nan,
    }
