"""Draws one object of the world over a picture, from signed distances so that its edges stay smooth.

Distances are in units of the object's radius, negative inside; horizontal and vertical offsets come apart
([N, T, 1, W] and [N, T, H, 1]) because most of the arithmetic then costs a line instead of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

OUTLINE = 0.10
"""Width of the dark outline, in radii."""


def ball(x: Tensor, y: Tensor) -> Tensor:
    """Signed distance of a disc of radius 0.95."""
    return (x * x + y * y).sqrt_().sub_(0.95)


def square(x: Tensor, y: Tensor) -> Tensor:
    """Distance of a square with round corners: a superellipse, whose powers cost only lines."""
    return (x.pow(8) + y.pow(8)).add_(1e-9).pow_(0.125).sub_(0.84)


def triangle(x: Tensor, y: Tensor) -> Tensor:
    """Distance of an equilateral triangle standing on its base."""
    up = y - 0.18
    return torch.maximum(math.sqrt(0.75) * x.abs() - 0.5 * up, up).sub_(0.63)


def star(x: Tensor, y: Tensor) -> Tensor:
    """Distance of a chubby five-pointed star: mirrors fold the plane into half a point with one edge."""
    u, v = x.abs(), -y
    for degrees in (108.0, 36.0):
        a = math.radians(degrees)
        beyond = (math.cos(a) * u - math.sin(a) * v).clamp_(min=0).mul_(2)
        u = u - math.cos(a) * beyond
        v = v + math.sin(a) * beyond
    valley, tip = 0.52, 1.06
    across, along = valley * math.sin(math.radians(36)), tip - valley * math.cos(math.radians(36))
    length = math.hypot(across, along)
    return u.abs_().mul_(along / length).add_(v, alpha=across / length).sub_(tip * across / length)


def ring(x: Tensor, y: Tensor) -> Tensor:
    """Distance of a thick ring."""
    return (x * x + y * y).sqrt_().sub_(0.66).abs_().sub_(0.30)


def heart(x: Tensor, y: Tensor) -> Tensor:
    """Distance of a heart: a square on its tip joined with a disc on each upper side."""
    half = 0.56
    up = -(y - 0.06)
    u = (x.abs() + up) * math.sqrt(0.5)
    v = (x.abs() - up) * math.sqrt(0.5)
    disc = ((u - half).square_() + v * v).sqrt_()
    return torch.minimum(torch.maximum(u.abs_(), v.abs_()), disc).sub_(half)


def cross(x: Tensor, y: Tensor) -> Tensor:
    """Distance of a thick plus sign."""
    across, along = x.abs(), y.abs()
    upright, level = (
        torch.maximum(across.sub(0.34), along.sub(0.98)),
        torch.maximum(across.sub(0.98), along.sub(0.34)),
    )
    return torch.minimum(upright, level)


def diamond(x: Tensor, y: Tensor) -> Tensor:
    """Distance of a tall diamond standing on its tip."""
    return (x.abs() * 1.35 + y.abs()).sub_(1.05).mul_(0.6)


def flower(x: Tensor, y: Tensor) -> Tensor:
    """Distance of a flower with six round petals."""
    angle = torch.atan2(x.expand(*y.shape[:-1], x.shape[-1]), -y)
    return (x * x + y * y).sqrt_().sub_(angle.mul_(3).cos_().abs_().mul_(0.36).add_(0.62)).mul_(0.8)


DISTANCE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ball": ball,
    "square": square,
    "triangle": triangle,
    "star": star,
    "ring": ring,
    "heart": heart,
    "cross": cross,
    "diamond": diamond,
    "flower": flower,
}
PATTERNS: tuple[str, ...] = ("plain", "striped", "dotted")
MARKING, MARKING_ON_WHITE = 0.97, 0.30
"""Grey of stripes and dots, and of those on a white object."""


def _marks(pattern: str, x: Tensor, y: Tensor, pixels: Tensor) -> Tensor:
    """How much of the marking's colour a place has, 0..1, for offsets in radii and so many pixels a radius."""
    if pattern == "striped":
        wave = torch.sin((x + 2 * y) * 4.0) + x * 0
        return (wave.mul_(pixels / 9).add_(0.4)).clamp_(0, 1)
    u, v = torch.remainder(x + 0.29, 0.58) - 0.29, torch.remainder(y + 0.29, 0.58) - 0.29
    return (0.17 - (u * u + v * v).sqrt_()).mul_(pixels).add_(0.5).clamp_(0, 1)


def paint(
    picture: Tensor,
    shape: str,
    patterns: Sequence[str],
    colour: Tensor,
    dx: Tensor,
    dy: Tensor,
    radius: Tensor,
    stretch: Tensor,
) -> None:
    """Draw one object per picture, in place.

    Args:
        picture: [N, T, 3, S, S], 0..1, changed in place.
        shape: name of the shape, a key of `DISTANCE`.
        patterns: of each object, out of `PATTERNS`.
        colour: [N, 3], 0..1.
        dx: [N, T, S] horizontal offset of every pixel column from the centre, in picture sizes.
        dy: [N, T, S] vertical offset of every pixel row from the centre, downwards.
        radius: [N], in picture sizes.
        stretch: [N, T, 2], horizontal and vertical scale of the object (squash of a bounce, turn of a spin).
    """
    size = picture.shape[-1]
    scale = radius[:, None, None] * stretch
    x = (dx / scale[..., :1])[:, :, None, :]
    y = (dy / scale[..., 1:])[:, :, :, None]
    pixels = (radius[:, None] * size * stretch.amin(-1).clamp(min=0.4))[:, :, None, None]

    shadow = torch.exp(-(((y - 0.55) / 0.75) ** 2)) * torch.exp(-(((x - 0.12) / 1.0) ** 2))
    picture.mul_(shadow.mul_(-0.30).add_(1)[:, :, None])

    distance = DISTANCE[shape](x, y)
    inside = distance.add(OUTLINE).mul_(-pixels).add_(0.5).clamp_(0, 1)
    depth = distance.mul(-1 / 0.42).sub_(OUTLINE / 0.42).clamp_(0, 1)
    cover = distance.mul_(-pixels).add_(0.5).clamp_(0, 1)
    light = depth.mul_(0.22).add_(0.84 - 0.13 * x).sub_(0.17 * y)
    light = light.sub_(0.34).mul_(inside).add_(0.34)
    gloss = torch.exp(-(((y + 0.42) / 0.26) ** 2)) * (0.62 * torch.exp(-(((x + 0.34) / 0.30) ** 2)))
    gloss = gloss.mul_(inside)
    base = colour[:, :, None, None, None].expand(-1, -1, *light.shape[1:])
    marked = [i for i, pattern in enumerate(patterns) if pattern != "plain"]
    if marked:
        base = base.clone()
        for i in marked:
            grey = MARKING_ON_WHITE if float(colour[i].amin()) > 0.9 else MARKING
            base[i].lerp_(torch.full_like(base[i], grey), _marks(patterns[i], x[i], y[i], pixels[i]))
    for channel in range(3):
        target = light * base[:, channel]
        target += gloss
        target.clamp_(max=1.0)
        plane = picture[:, :, channel]
        plane += target.sub_(plane).mul_(cover)
