"""Weather, night and a drifting camera over any scenery of the painted world.

They change a picture that is already painted, so that every scenery has them without knowing of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.scenes import TAU, Canvas, blend

WEATHERS: tuple[str, ...] = ("clear", "rain", "fog")
HOURS: tuple[str, ...] = ("usual", "night")
DAYLIT: tuple[str, ...] = ("meadow", "desert", "sea", "snow")
"""Sceneries that have a night of their own."""
MOONLIGHT, GLOOM = (0.30, 0.34, 0.58), (0.74, 0.77, 0.82)
"""What is left of red, green and blue at night and under rain clouds."""
VIEW, SWAY, SWAY_SECONDS = 0.88, (0.055, 0.03), (9.0, 7.0)
"""Share of the scenery that a drifting camera sees, how far it goes (across, down) and how long it takes."""


class Outdoors(Protocol):
    """What a clip says about its air; `training.world.ClipSpec` is one."""

    @property
    def weather(self) -> str: ...
    @property
    def hour(self) -> str: ...
    @property
    def camera(self) -> str: ...
    @property
    def style(self) -> int: ...
    @property
    def phase(self) -> float: ...


def air(film: Tensor, looks: Sequence[Outdoors], time: Tensor) -> None:
    """Change painted sceneries [N, T, 3, S, S] in place, behind the objects: fog, rain clouds, night, camera.

    Args:
        film: pictures in 0..1.
        looks: the clips.
        time: seconds of every pixel frame, [N, T].
    """
    for rows in _rows(looks, "weather", "fog"):
        film[rows] = _fog(film[rows], _canvas(film, looks, rows, time))
    for rows in _rows(looks, "weather", "rain"):
        film[rows] *= film.new_tensor(GLOOM)[:, None, None]
    for rows in _rows(looks, "hour", "night"):
        film[rows] = _night(film[rows], _canvas(film, looks, rows, time))
    for rows in _rows(looks, "camera", "drifting"):
        film[rows] = _drift(film[rows], _canvas(film, looks, rows, time))


def rain(film: Tensor, looks: Sequence[Outdoors], time: Tensor) -> None:
    """Let drops fall before everything in rainy clips, in place; arguments as of `air`."""
    for rows in _rows(looks, "weather", "rain"):
        c = _canvas(film, looks, rows, time)
        count = 16
        y = torch.remainder(c.pick(0, count) + c.pick(20, count, 0.8, 1.1) * c.time, 1.2) - 0.1
        x = c.spread(40, count) + 0.02 * y
        film[rows] = blend(film[rows], (0.86, 0.91, 1.0), c.bells(x, y, 0.007, 0.045, 0.6).clamp_(max=0.7))


def _rows(looks: Sequence[Outdoors], attribute: str, value: str) -> list[list[int]]:
    """The rows of the clips that have the value as one list, or no list."""
    rows = [i for i, look in enumerate(looks) if getattr(look, attribute) == value]
    return [rows] if rows else []


def _canvas(film: Tensor, looks: Sequence[Outdoors], rows: list[int], time: Tensor) -> Canvas:
    """Clock and random numbers of some clips, other numbers than their scenery has."""
    makers = [np.random.default_rng((9177, looks[i].style)) for i in rows]
    random = torch.from_numpy(np.stack([maker.random(80, dtype=np.float32) for maker in makers]))
    late = torch.tensor([looks[i].phase * 60.0 for i in rows], device=film.device)[:, None]
    return Canvas(film.shape[-1], time[rows] + late, random.to(film.device))


def _fog(picture: Tensor, c: Canvas) -> Tensor:
    left = c.spread(0, 4) * 1.8 + 0.05 * c.time
    banks = c.bells(torch.remainder(left, 1.8) - 0.4, c.pick(10, 4, 0.3, 0.9), 0.45, 0.12, 0.3)
    veil = (0.25 + 0.4 * c.y)[:, None].expand(-1, c.size)
    return blend(picture, (0.87, 0.90, 0.93), (banks + veil).clamp_(max=0.85))


def _night(picture: Tensor, c: Canvas) -> Tensor:
    count = 9
    light = 0.6 + 0.4 * torch.sin(TAU * (c.pick(50, count, 0.2, 0.5) * c.time + c.pick(60, count)))
    stars = c.bells(c.spread(30, count), c.pick(40, count, 0.04, 0.36), 0.014, 0.014, light)
    return blend(picture * picture.new_tensor(MOONLIGHT)[:, None, None], (1.0, 0.97, 0.88), stars.clamp_(max=1))


def _drift(picture: Tensor, c: Canvas) -> Tensor:
    """Look at a part of the picture that wanders slowly."""
    clips, frames = picture.shape[:2]
    turn = [TAU * c.time[..., 0] / seconds for seconds in SWAY_SECONDS]
    theta = picture.new_zeros(clips, c.time.shape[1], 2, 3)
    theta[..., 0, 0] = theta[..., 1, 1] = VIEW
    theta[..., 0, 2] = 2 * SWAY[0] * torch.sin(turn[0])
    theta[..., 1, 2] = 2 * SWAY[1] * torch.cos(turn[1])
    theta = theta.expand(-1, frames, -1, -1).flatten(0, 1)
    grid = F.affine_grid(theta, [clips * frames, 3, c.size, c.size], align_corners=False)
    seen = F.grid_sample(picture.flatten(0, 1), grid, padding_mode="border", align_corners=False)
    return seen.unflatten(0, (clips, frames))
