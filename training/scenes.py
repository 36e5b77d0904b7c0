"""Paints the world's eight sceneries from gradients and soft shapes, which a small autoencoder can learn.

Clouds, stars, flakes and glints are sums of separable bells: a whole film of them is one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Colour = tuple[float, float, float]
Stop = tuple[float, Colour]
Amount = Tensor | float
TAU = 2 * math.pi
VARIATIONS = 160
"""Random numbers a scenery may use for its own variation."""
PUFFS = ((-0.11, 0.015, 0.09, 0.05), (0.0, -0.02, 0.10, 0.075), (0.11, 0.012, 0.10, 0.052))
"""Offset to the right and down, width and height of a cloud's three parts."""
STEMS = ((0.0, 0.44, 0.72, 0.026), (-0.065, 0.52, 0.58, 0.018), (0.06, 0.49, 0.56, 0.018))
"""Offset to the right, top, foot and thickness of a cactus's upright parts."""
ARMS = ((-0.032, 0.58), (0.03, 0.56))
"""Offset to the right and height of a cactus's level parts."""
SKYLINES = (
    (0, 7, 0.5, 0.34, 0.66, (0.24, 0.16, 0.38)),
    (10, 6, 0.0, 0.52, 0.82, (0.10, 0.09, 0.22)),
)
"""First random number, towers, shift, range of roof heights and colour of the far and the near houses."""


class Canvas:
    """Pixel grid and clock of some clips that show one scenery.

    Attributes:
        x: [S] pixel centres 0..1; `y` is the same, downwards.
        time: [N, T, 1] seconds.
        random: [N, VARIATIONS] numbers 0..1 of each clip's own.
    """

    def __init__(self, size: int, time: Tensor, random: Tensor) -> None:
        self.size = size
        self.time = time[..., None]
        self.random = random
        self.x = (torch.arange(size, device=time.device, dtype=torch.float32) + 0.5) / size
        self.y = self.x

    def pick(self, first: int, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """[N, 1, count] numbers between low and high, the clips' own."""
        return low + (high - low) * self.random[:, None, first : first + count]

    def gradient(self, stops: Sequence[Stop]) -> Tensor:
        """[1, 1, 3, S, 1] vertical colour gradient through the stops (height 0 is the top)."""
        rows = (np.arange(self.size) + 0.5) / self.size
        places = [place for place, _ in stops]
        columns = [np.interp(rows, places, [colour[c] for _, colour in stops]) for c in range(3)]
        made = torch.tensor(np.stack(columns), dtype=torch.float32, device=self.x.device)
        return made[None, None, :, :, None]

    def sky(self, stops: Sequence[Stop]) -> Tensor:
        """[N, 1, 3, S, S] gradient as the ground of a picture."""
        return self.gradient(stops).expand(self.random.shape[0], 1, 3, self.size, self.size).clone()

    def bells(self, x: Tensor, y: Tensor, wide: Amount, high: Amount, much: Amount) -> Tensor:
        """[N, T, S, S] sum over K soft spots at x, y [N, T, K] of the given widths, heights and strengths."""
        across = torch.exp(-(((self.x - x[..., None]) / _last(wide)) ** 2))
        down = torch.exp(-(((self.y - y[..., None]) / _last(high)) ** 2)) * _last(much)
        frames = max(across.shape[1], down.shape[1])
        across = across.expand(-1, frames, -1, -1)
        return down.expand(-1, frames, -1, -1).transpose(-1, -2) @ across

    def below(self, line: Tensor, soft: float = 1.2) -> Tensor:
        """[N, T, S, S] mask of everything under a line [N, T, S] of heights; `soft` is the edge in pixels."""
        return ((self.y[:, None] - line[..., None, :]) * (self.size / soft) + 0.5).clamp_(0, 1)

    def disc(self, x: Tensor, y: Tensor, radius: float) -> Tensor:
        """[N, 1, S, S] mask of a disc at x, y [N, 1, 1]."""
        away = ((self.x - x[..., None]) ** 2 + (self.y[:, None] - y[..., None]) ** 2).sqrt_()
        return ((radius - away) * (self.size / 1.3) + 0.5).clamp_(0, 1)

    def spread(self, first: int, count: int) -> Tensor:
        """[N, 1, count] places 0..1 from left to right, one at random in each of `count` equal parts."""
        return (torch.arange(count, device=self.x.device) + self.pick(first, count)) / count

    def clouds(self, first: int, count: int, low: float, high: float, speed: float = 0.03, grow: float = 1.0) -> Tensor:
        """[N, T, S, S] cover of drifting clouds between two heights; uses 2 * count numbers from `first`."""
        left = (self.pick(first, count) / count + torch.arange(count, device=self.x.device) / count) * 1.7
        x = torch.remainder(left + speed * self.time, 1.7) - 0.35
        y = self.pick(first + count, count, low, high)
        left_puff, middle, right_puff = (
            self.bells(x + grow * across, y + grow * up, grow * wide, grow * tall, 1.0)
            for across, up, wide, tall in PUFFS
        )
        return (left_puff + middle + right_puff).sub_(0.28).mul_(2.2).clamp_(0, 1)


def _last(value: Amount) -> Amount:
    return value[..., None] if isinstance(value, Tensor) else value


def blend(picture: Tensor, colour: Tensor | Colour, mask: Tensor) -> Tensor:
    """Lay a colour (or a picture) over a picture [N, T, 3, S, S] where the mask [N, T, S, S] is 1."""
    if not isinstance(colour, Tensor):
        colour = torch.tensor(colour, dtype=torch.float32, device=picture.device)[:, None, None]
    return torch.addcmul(picture, mask[:, :, None], colour - picture)


def day(c: Canvas) -> Tensor:
    """Blue sky with a sun and drifting clouds."""
    picture = c.sky([(0, (0.27, 0.56, 0.93)), (0.6, (0.53, 0.78, 0.98)), (1, (0.80, 0.92, 1.0))])
    sun_x, sun_y = c.pick(0, 1, 0.15, 0.85), c.pick(1, 1, 0.12, 0.2)
    picture = blend(picture, (1.0, 0.96, 0.75), c.bells(sun_x, sun_y, 0.2, 0.2, 0.55))
    picture = blend(picture, (1.0, 0.95, 0.62), c.disc(sun_x, sun_y, 0.075))
    picture = blend(picture, (0.86, 0.92, 0.99), c.clouds(2, 3, 0.62, 0.9, 0.02) * 0.8)
    return blend(picture, (1.0, 1.0, 1.0), c.clouds(10, 3, 0.15, 0.6, 0.045, 1.15))


def night(c: Canvas) -> Tensor:
    """Dark sky with a crescent moon and twinkling stars."""
    picture = c.sky([(0, (0.03, 0.04, 0.16)), (0.6, (0.09, 0.09, 0.29)), (1, (0.20, 0.17, 0.42))])
    x, y = c.pick(0, 1, 0.18, 0.82), c.pick(1, 1, 0.15, 0.26)
    picture = blend(picture, (0.55, 0.58, 0.85), c.bells(x, y, 0.2, 0.2, 0.38))
    crescent = c.disc(x, y, 0.095) * (1 - c.disc(x + 0.05, y - 0.025, 0.085))
    picture = blend(picture, (0.99, 0.96, 0.80), crescent)
    count = 14
    places = torch.arange(count, device=c.x.device)
    star_x = (c.pick(4, count) + places) / count
    star_y = torch.remainder(places * 0.618 + c.pick(30, count, 0, 0.2), 1.0)
    wide = c.pick(56, count, 0.014, 0.022)
    rate = c.pick(80, count, 0.25, 0.6)
    much = 0.62 + 0.38 * torch.sin(TAU * (rate * c.time + c.pick(104, count)))
    return blend(picture, (1.0, 0.97, 0.88), c.bells(star_x, star_y, wide, wide, much).clamp_(max=1))


def sunset(c: Canvas) -> Tensor:
    """Low sun over calm water that glitters."""
    horizon = 0.64
    upper = [(0, (0.33, 0.20, 0.50)), (0.26, (0.72, 0.33, 0.52))]
    picture = c.sky([*upper, (0.48, (0.98, 0.55, 0.37)), (horizon, (1.0, 0.84, 0.52))])
    x, y = c.pick(0, 1, 0.25, 0.75), torch.full_like(c.pick(0, 1), horizon - 0.05)
    picture = blend(picture, (1.0, 0.86, 0.55), c.bells(x, y, 0.3, 0.2, 0.7))
    picture = blend(picture, (1.0, 0.97, 0.80), c.disc(x, y, 0.115))
    left = c.pick(2, 5) * 0.3 + torch.arange(5, device=c.x.device) * 0.36
    drift = torch.remainder(left + 0.018 * c.time, 1.8) - 0.4
    streaks = c.bells(drift, c.pick(8, 5, 0.10, 0.46), c.pick(14, 5, 0.16, 0.28), 0.028, 0.75).clamp_(max=0.8)
    picture = blend(picture, (0.60, 0.29, 0.50), streaks)
    water = c.gradient([(horizon, (0.90, 0.52, 0.44)), (0.8, (0.58, 0.30, 0.48)), (1, (0.27, 0.16, 0.42))])
    picture = blend(picture, water, c.below(torch.full_like(c.x, horizon).expand(x.shape[0], 1, -1)))
    rows = torch.linspace(horizon + 0.035, 0.97, 7, device=c.x.device)
    beat = TAU * (c.pick(20, 7, 0.25, 0.5) * c.time + c.pick(28, 7))
    wide = (0.07 + 0.012 * torch.arange(7, device=c.x.device)) * (1.2 + 0.35 * torch.sin(beat))
    glint = c.bells(x + 0.03 * torch.cos(beat * 0.7), rows.expand(1, 1, -1), wide, 0.016, 0.8)
    return blend(picture, (1.0, 0.85, 0.58), glint.clamp_(max=0.9))


def hill(c: Canvas, first: int, base: float, height: float, waves: float) -> Tensor:
    """[N, 1, S] line of a soft hill; uses two numbers from `first`."""
    swell = torch.sin(TAU * (waves * c.x + c.pick(first, 1)))
    ripple = 0.4 * torch.sin(TAU * (1.9 * waves * c.x + c.pick(first + 1, 1)))
    return base + height * (swell + ripple)


def land(c: Canvas, picture: Tensor, line: Tensor, top: Stop, foot: Stop) -> Tensor:
    """Picture with ground under a line, shaded from the colour at `top` to the colour at `foot`."""
    return blend(picture, c.gradient([top, foot]), c.below(line))


def meadow(c: Canvas) -> Tensor:
    """Green hills with swaying flowers under a mild sky."""
    picture = c.sky([(0, (0.42, 0.73, 0.97)), (0.62, (0.86, 0.95, 0.97)), (1, (0.9, 0.96, 0.9))])
    picture = blend(picture, (1.0, 1.0, 1.0), c.clouds(0, 2, 0.12, 0.3, 0.03))
    picture = land(c, picture, hill(c, 6, 0.58, 0.04, 0.8), (0.5, (0.66, 0.85, 0.45)), (0.8, (0.45, 0.72, 0.36)))
    near = hill(c, 8, 0.74, 0.035, 0.6)
    picture = land(c, picture, near, (0.7, (0.45, 0.75, 0.30)), (1, (0.20, 0.52, 0.22)))
    for group, colour in enumerate(((1.0, 0.97, 0.92), (1.0, 0.83, 0.28), (0.98, 0.50, 0.66))):
        at = 12 + 20 * group
        x = c.spread(at, 4)
        sway = 0.012 * torch.sin(TAU * (0.35 * c.time + x))
        y = c.pick(at + 8, 4, 0.82, 0.97)
        picture = blend(picture, colour, c.bells(x + sway, y, 0.027, 0.027, 1.15).clamp_(max=1))
    return picture


def desert(c: Canvas) -> Tensor:
    """Sand dunes with a cactus and a breath of dust."""
    picture = c.sky([(0, (0.47, 0.76, 0.86)), (0.55, (0.99, 0.91, 0.72)), (1, (1.0, 0.9, 0.7))])
    picture = blend(picture, (1.0, 0.98, 0.86), c.disc(c.pick(0, 1, 0.2, 0.8), c.pick(1, 1, 0.14, 0.22), 0.08))
    picture = land(c, picture, hill(c, 2, 0.56, 0.035, 0.7), (0.45, (0.97, 0.82, 0.56)), (0.75, (0.90, 0.68, 0.40)))
    place = c.pick(8, 1, 0.12, 0.88)
    for across, top, foot, thick in STEMS:
        stem = (c.y - c.y.clamp(top, foot))[:, None]
        away = ((c.x - place[..., None] - across) ** 2 + stem**2).sqrt_()
        picture = blend(picture, (0.30, 0.55, 0.36), (0.5 - (away - thick) * c.size / 1.3).clamp_(0, 1))
    for across, height in ARMS:
        level, upright = (
            (c.x - place[..., None] - across).abs() - 0.035,
            (c.y - height).abs()[:, None] - 0.018,
        )
        mask = (0.5 - torch.maximum(level, upright) * c.size / 1.3).clamp_(0, 1)
        picture = blend(picture, (0.30, 0.55, 0.36), mask)
    picture = land(c, picture, hill(c, 4, 0.70, 0.04, 0.6), (0.6, (0.95, 0.74, 0.45)), (1, (0.78, 0.52, 0.27)))
    picture = land(c, picture, hill(c, 6, 0.87, 0.04, 0.5), (0.75, (0.88, 0.63, 0.34)), (1, (0.66, 0.42, 0.20)))
    left = c.pick(10, 5) + 0.10 * c.time
    drift = torch.remainder(left + torch.arange(5, device=c.x.device) * 0.36, 1.8) - 0.4
    dust = c.bells(drift, c.pick(16, 5, 0.55, 0.95), 0.22, 0.025, 0.5)
    return blend(picture, (1.0, 0.93, 0.76), dust.clamp_(max=0.6))


def sea(c: Canvas) -> Tensor:
    """Blue sea with rolling waves and foam."""
    picture = c.sky([(0, (0.42, 0.74, 0.97)), (0.45, (0.87, 0.96, 1.0)), (1, (0.9, 0.96, 1.0))])
    picture = blend(picture, (1.0, 1.0, 1.0), c.clouds(0, 2, 0.1, 0.25, 0.025))
    colours = ((0.33, 0.72, 0.80), (0.15, 0.57, 0.74), (0.08, 0.43, 0.66), (0.04, 0.29, 0.54))
    for layer, colour in enumerate(colours):
        base, high = 0.47 + 0.15 * layer, 0.008 + 0.009 * layer
        speed = (0.16 + 0.05 * layer) * (1 if layer % 2 else -1)
        turn = TAU * ((1.9 - 0.25 * layer) * c.x + speed * c.time + c.pick(6 + layer, 1))
        line = base + high * (torch.sin(turn) + 0.28 * torch.cos(2 * turn))
        picture = blend(picture, colour, c.below(line))
        if layer:
            away = (c.y[:, None] - (line + 0.010)[..., None, :]).abs_()
            foam = away.mul_(-1 / 0.018).add_(1).clamp_(min=0).mul_(0.55)
            picture = blend(picture, (0.90, 0.98, 1.0), foam)
    return picture


def snow(c: Canvas) -> Tensor:
    """White hills with fir trees in falling snow."""
    picture = c.sky([(0, (0.52, 0.65, 0.82)), (0.6, (0.83, 0.89, 0.96)), (1, (0.9, 0.94, 1.0))])
    picture = land(c, picture, hill(c, 0, 0.60, 0.035, 0.7), (0.5, (0.84, 0.90, 0.97)), (0.8, (0.72, 0.81, 0.93)))
    for tree in range(4):
        place = c.pick(4 + tree, 1, 0.03 + 0.25 * tree, 0.20 + 0.25 * tree)
        foot = c.pick(8 + tree, 1, 0.68, 0.76)
        for up, tall, wide in ((0.0, 0.13, 0.075), (0.08, 0.12, 0.058)):
            part = (c.y - (foot - up - tall)) / tall
            reach = (wide * part - (part > 1) * 9)[..., None]
            mask = ((reach - (c.x - place).abs()[:, :, None, :]) * (c.size / 1.3) + 0.5).clamp_(0, 1)
            picture = blend(picture, (0.22, 0.42, 0.42), mask)
    picture = land(c, picture, hill(c, 2, 0.78, 0.03, 0.55), (0.7, (0.98, 0.99, 1.0)), (1, (0.82, 0.88, 0.97)))
    count = 15
    speed = c.pick(16, count, 0.16, 0.28)
    y = torch.remainder(c.pick(44, count) + speed * c.time, 1.1) - 0.05
    x = c.spread(70, count) + 0.03 * torch.sin(TAU * (0.3 * c.time + c.pick(96, count)))
    wide = c.pick(122, count, 0.018, 0.027)
    return blend(picture, (1.0, 1.0, 1.0), c.bells(x, y, wide, wide, 0.95).clamp_(max=0.95))


def city(c: Canvas) -> Tensor:
    """Skyline at night whose windows go on and off."""
    upper = [(0, (0.09, 0.07, 0.24)), (0.5, (0.33, 0.17, 0.42))]
    picture = c.sky([*upper, (0.8, (0.72, 0.36, 0.45)), (1, (0.8, 0.4, 0.4))])
    fine = (torch.arange(4 * c.size, device=c.x.device) + 0.5) / (4 * c.size)
    for first, towers, shift, low, high, colour in SKYLINES:
        tops = c.pick(first, towers + 1, low, high)
        line = tops[..., (fine * towers + shift).long()]
        mask = ((c.y[:, None] - line[..., None, :]) * c.size + 0.5).clamp_(0, 1)
        picture = blend(picture, colour, mask.unflatten(-1, (c.size, 4)).mean(-1))
    columns, rows = 12, 4
    x = ((torch.arange(columns, device=c.x.device) + 0.5) / columns).repeat(rows)
    tops = c.pick(10, 6, 0.52, 0.82).repeat_interleave(2, -1).repeat(1, 1, rows)
    level = torch.arange(rows, device=c.x.device).repeat_interleave(columns)
    y = tops + 0.06 + 0.10 * level
    lit = c.pick(30, columns * rows)
    beat = torch.sin(TAU * (c.time * (0.05 + 0.1 * lit) + 7 * lit)) * 4 + 1.5
    much = (lit < 0.62) * beat.clamp_(0, 1)
    panes = c.bells(x.expand_as(y), y, 0.019, 0.026, 1.2 * much)
    return blend(picture, (1.0, 0.84, 0.48), panes.clamp_(max=1))


PAINTERS: dict[str, Callable[[Canvas], Tensor]] = {
    "day": day,
    "night": night,
    "sunset": sunset,
    "meadow": meadow,
    "desert": desert,
    "sea": sea,
    "snow": snow,
    "city": city,
}


def scenery(scene: str, styles: Sequence[int], phases: Sequence[float], frames: Tensor, size: int, fps: int) -> Tensor:
    """Film of one scenery for several clips.

    Args:
        scene: a key of `PAINTERS`.
        styles: seed of each clip's own variation.
        phases: 0..1, where in the slow animation each clip's clock starts.
        frames: [N, T] absolute pixel-frame numbers, on the device to paint on.
        size: pixels along each side.
        fps: pixel frames a second.

    Returns:
        [N, T, 3, size, size] float32, 0..1.
    """
    makers = [np.random.default_rng((9176, style)) for style in styles]
    random = np.stack([maker.random(VARIATIONS, dtype=np.float32) for maker in makers])
    late = torch.tensor(phases, dtype=torch.float32, device=frames.device)[:, None] * 60.0
    canvas = Canvas(size, frames / fps + late, torch.from_numpy(random).to(frames.device))
    picture = PAINTERS[scene](canvas)
    return picture.expand(-1, frames.shape[1], -1, -1, -1)
