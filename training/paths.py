"""Tells motions apart by fitting every path an object can take to its track, because a path also gives a speed.

Each motion is a small linear model (straight line, circle, parabolas of a bounce, rest); the one that explains
the track best wins, where a model pays for its freedom. A track may have gaps and jumps: what leaves at one side
comes back at the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from training.world import BOUNCE_FRAMES, BOUNCE_HEIGHT, ORBIT_FRAMES, ORBIT_RADIUS, SPEED

NOISE = 0.012
"""Places are read to about this, in picture sizes; residuals below it tell nothing."""
JUMP = 0.45
"""A step this long is not a motion but a return at the other side."""
SLOWEST = 0.25
"""What is slower than this share of its motion's own speed counts as resting."""
TURNING = 0.18
"""Spread of the width of an object that turns; a resting one's is near zero."""
WINDOW = 40
"""Pixel frames decided at once; longer ones would need the speed to be right to a percent."""
EDGE_SHOWN = 12.0
"""What an edge that shows is worth against a better fit: only a spin shows it, and it blurs the place."""
FEWEST = 8
"""Places that must be seen before a motion can be told."""
DIP = 1.06
"""A bounce reaches deeper than its parabola by this factor, because the object squashes on the floor."""
RATES = np.arange(0.5, 1.55, 0.05)
"""Speeds of circles and bounces that are tried, over the world's own."""


@dataclass(frozen=True, slots=True)
class MotionFit:
    """The motion of a track, or "unseen", how sure (0..1), and its speed over the world's own (0 at rest)."""

    motion: str
    confidence: float
    speed: float


def fit_motion(place: np.ndarray, visible: np.ndarray, stretch: np.ndarray) -> MotionFit:
    """Decide the motion of an object; a long track is decided in windows, which then vote.

    Args:
        place: [T, 2] its centre in every pixel frame, 0..1, y downwards.
        visible: [T] bool, where it was seen.
        stretch: [T] its width over its height.
    """
    count = max(1, round(len(place) / WINDOW))
    pieces = zip(*(np.array_split(whole, count) for whole in (place, visible, stretch)), strict=True)
    fits = [fit for fit in (_fit_window(*piece) for piece in pieces) if fit.motion != "unseen"]
    if not fits:
        return MotionFit("unseen", 0.0, 0.0)
    votes: dict[str, float] = {}
    for fit in fits:
        votes[fit.motion] = votes.get(fit.motion, 0.0) + fit.confidence
    motion = max(votes, key=lambda name: votes[name])
    speed = float(np.median([fit.speed for fit in fits if fit.motion == motion]))
    return MotionFit(motion, votes[motion] / len(fits), speed)


def _fit_window(place: np.ndarray, visible: np.ndarray, stretch: np.ndarray) -> MotionFit:
    time = np.flatnonzero(visible).astype(np.float64)
    if len(time) < FEWEST:
        return MotionFit("unseen", 0.0, 0.0)
    track = place[visible]
    jumps = (np.abs(np.diff(track, axis=0)) > JUMP).any(1)
    segment = np.concatenate([[0], np.cumsum(jumps)])
    found = [
        _rest(track, stretch[visible]),
        *_lines(time, track, segment),
        _circle(time, track),
        _bounce(time, track),
    ]
    found.sort(key=lambda fit: fit[0])
    margin = found[1][0] - found[0][0]
    return MotionFit(found[0][1], 1 / (1 + math.exp(-min(margin, 50.0) / 2)), found[0][2])


def _cost(residual: np.ndarray, freedom: int) -> np.ndarray:
    """Bayesian information of fits [..., T, 2] with so many free numbers; a tenth of T may be misread."""
    squares = np.sort((residual**2).sum(-1), -1)
    kept = squares[..., : max(FEWEST, math.ceil(0.9 * squares.shape[-1]))]
    return kept.shape[-1] * np.log(kept.mean(-1) + 2 * NOISE**2) + freedom * math.log(squares.shape[-1])


def _solve(columns: list[np.ndarray], target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares; returns the coefficients and the residual."""
    design = np.stack(columns, -1)
    found = np.linalg.lstsq(design, target, rcond=None)[0]
    return found, target - design @ found


def _rest(track: np.ndarray, stretch: np.ndarray) -> tuple[float, str, float]:
    turning = float(np.std(np.clip(stretch, 0, 1.2))) > TURNING
    cost = float(_cost(track - np.median(track, axis=0), 2)) - EDGE_SHOWN * turning
    return cost, "spin" if turning else "still", 1.0 if turning else 0.0


def _lines(time: np.ndarray, track: np.ndarray, segment: np.ndarray) -> list[tuple[float, str, float]]:
    """Straight crossings; every return at the other side starts a stretch of its own."""
    parts = [(segment == s).astype(np.float64) for s in range(segment[-1] + 1)]
    found = []
    for axis, (back, forth) in enumerate((("left", "right"), ("up", "down"))):
        along, first = _solve([time, *parts], track[:, axis])
        _, second = _solve(parts, track[:, 1 - axis])
        speed = along[0] / SPEED
        cost = float(_cost(np.stack([first, second], -1), 3 + segment[-1]))
        if abs(speed) < SLOWEST:
            cost = math.inf
        found.append((cost, forth if speed > 0 else back, abs(float(speed))))
    return found


def _circle(time: np.ndarray, track: np.ndarray) -> tuple[float, str, float]:
    best = (math.inf, "orbit", 0.0)
    zero, one = np.zeros_like(time), np.ones_like(time)
    for rate in (*RATES, *-RATES):
        angle = math.tau * rate * time / ORBIT_FRAMES
        cos, sin = np.cos(angle), np.sin(angle)
        columns = [np.stack(pair, -1).ravel() for pair in ((one, zero), (zero, one), (cos, sin), (-sin, cos))]
        numbers, residual = _solve(columns, track.ravel())
        radius = math.hypot(*numbers[2:])
        speed = abs(rate) * radius / ORBIT_RADIUS
        cost = float(_cost(residual.reshape(-1, 2), 5))
        if cost < best[0] and 0.4 < radius / ORBIT_RADIUS < 1.8 and speed > SLOWEST:
            best = (cost, "orbit", speed)
    return best


def _bounce(time: np.ndarray, track: np.ndarray) -> tuple[float, str, float]:
    """Parabolas between floor and top; every speed and phase is tried at once, [candidates, T]."""
    rate, phase = (grid.ravel() for grid in np.meshgrid(RATES, np.arange(0, 2, 0.1)))
    swing = np.remainder(phase[:, None] + 2 * rate[:, None] * time / BOUNCE_FRAMES, 2) - 1
    fall = swing**2 - (swing**2).mean(-1, keepdims=True)
    down = track[:, 1] - track[:, 1].mean()
    height = fall @ down / (fall**2).sum(-1)
    across = np.broadcast_to(track[:, 0] - np.median(track[:, 0]), fall.shape)
    cost = _cost(np.stack([across, down - height[:, None] * fall], -1), 5)
    cost = np.where((height > 0.35 * BOUNCE_HEIGHT) & (height < 1.8 * BOUNCE_HEIGHT), cost, math.inf)
    best = int(cost.argmin())
    return float(cost[best]), "bounce", float(rate[best] * height[best] / (DIP * BOUNCE_HEIGHT))
