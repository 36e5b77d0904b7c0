"""A camera's clip with a known way: a coloured disc before grey clutter, in uneven light, with a sensor's noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.world import ClipSpec, positions

COLORS = ((225, 60, 50), (50, 90, 220), (240, 200, 60), (70, 170, 80))
"""Of the disc, by turns: none is one of the painted world's own."""
RADIUS = 0.14
"""Of the disc, in picture sizes."""
CLUTTER, GRAIN, SENSOR = 8, 14.0, 6.0
"""Areas of clutter along a side; how uneven each is, and what the sensor adds, in grey levels of 255."""


def camera_clip(spec: ClipSpec, side: int, frames: int, seed: int) -> NDArray[np.uint8]:
    """What a camera would see of an object that goes the way of `spec`.

    Args:
        spec: whose way it is; its shape, colour and scene are not in the clip.
        side: of the picture, in pixels.
        frames: how many, at the world's rate.
        seed: of clutter, light and noise.

    Returns:
        uint8 RGB [frames, side, side, 3].
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    areas = rng.uniform(60, 170, (CLUTTER, CLUTTER, 3))
    areas = 0.8 * areas.mean(-1, keepdims=True) + 0.2 * areas  # nearly grey
    at = (np.arange(side) * CLUTTER) // side
    room = areas[at][:, at] + rng.normal(0, GRAIN, (side, side, 1))
    light = (0.75 + 0.5 * x)[..., None]
    color = np.array(COLORS[seed % len(COLORS)], float)
    film = np.empty((frames, side, side, 3), np.uint8)
    for number, (across, down) in enumerate(positions(spec, frames)):
        disc = ((x - across) ** 2 + (y - down) ** 2 < RADIUS**2)[..., None]
        seen = np.where(disc, color, room) * light + rng.normal(0, SENSOR, (side, side, 3))
        film[number] = seen.clip(0, 255)
    return film
