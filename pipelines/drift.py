"""How far the picture has wandered from what it was: one number a chunk, cheap enough for every chunk.

Long causal roll-outs drift: they brighten, saturate, blur or repeat. The number is the root mean square of z-scores
of five picture statistics, the last two seconds against the two seconds that began two seconds after the last switch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

NAMES = ("luma_mean", "luma_std", "saturation", "sharpness", "thumbnail")
EVERY = 4
"""One pixel frame in so many is looked at: the pictures of one latent frame hardly differ, and the time counts."""

_SIDE = 16
Statistics = NDArray[np.float32]
"""Per pixel frame: four scalars, then a mean-free 16 x 16 RGB thumbnail, [4 + 768]."""


@dataclass(frozen=True, slots=True)
class DriftState:
    """Statistics kept: `recent` of the last two seconds, `reference` after the last switch, `early` of its first 10 s.

    `since` counts looked-at frames since the switch. Arrays are replaced, never changed in place.
    """

    since: int = 0
    recent: tuple[Statistics, ...] = ()
    reference: tuple[Statistics, ...] = ()
    early: tuple[Statistics, ...] = ()


def statistics(pixels: NDArray[np.uint8]) -> list[Statistics]:
    """Statistics of each frame of uint8 RGB [T, H, W, 3]."""
    # Planes: extremes over an innermost axis of 3 would take 30 times as long.
    frames = np.ascontiguousarray(np.moveaxis(pixels, -1, 1)).astype(np.float32) / 255.0
    luma = np.tensordot(np.array([0.2126, 0.7152, 0.0722], dtype=np.float32), frames, (0, 1))
    saturation = frames.max(1) - frames.min(1)
    laplacian = (
        4 * luma[:, 1:-1, 1:-1] - luma[:, :-2, 1:-1] - luma[:, 2:, 1:-1] - luma[:, 1:-1, :-2] - luma[:, 1:-1, 2:]
    )
    count, height, width = luma.shape
    cells = np.moveaxis(_cells(height) @ frames @ _cells(width).T, 1, -1)
    thumbnails = (cells - cells.mean(axis=(1, 2), keepdims=True)).reshape(count, -1)
    scalars = np.stack(
        [luma.mean((1, 2)), luma.std((1, 2)), saturation.mean((1, 2)), np.square(laplacian).mean((1, 2))],
        axis=1,
    )
    return list(np.concatenate([scalars, thumbnails], axis=1).astype(np.float32))


@lru_cache(maxsize=8)
def _cells(length: int) -> NDArray[np.float32]:
    """Weights [_SIDE, length] of the means over _SIDE runs, unequal where it does not divide."""
    edges = np.linspace(0, length, _SIDE + 1).astype(int)
    at = np.arange(length)
    inside = (at >= edges[:-1, None]) & (at < edges[1:, None])
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


def _summary(frames: tuple[Statistics, ...]) -> Statistics:
    return np.mean(np.stack(frames), axis=0)


def _cosine_distance(a: Statistics, b: Statistics) -> float:
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return 1.0 - float(a @ b) / norm if norm > 0 else 0.0


def measure(
    state: DriftState,
    pixels: NDArray[np.uint8],
    *,
    fps: int,
    switched: bool,
    spreads: tuple[float, ...] | None = None,
) -> tuple[DriftState, float | None]:
    """Add a chunk and compare.

    Args:
        state: what was kept so far.
        pixels: the chunk, uint8 RGB [T, H, W, 3].
        fps: pixel frames a second.
        switched: whether the prompt changed at this chunk, which starts the comparison anew.
        spreads: the usual spread of each of NAMES, from the model's card; None = the film's own first 10 s after
            the switch.

    Returns:
        The new state, and the drift, or None while there is no reference or no spread yet.
    """
    if switched:
        state = DriftState()
    rate = max(1, fps // EVERY)
    window = 2 * rate
    since, recent, reference, early = (
        state.since,
        list(state.recent),
        list(state.reference),
        list(state.early),
    )
    for frame in statistics(pixels[::EVERY]):
        if window <= since < 2 * window:
            reference.append(frame)
        if since < 10 * rate and spreads is None:
            early.append(frame)
        recent = [*recent[-(window - 1) :], frame]
        since += 1
    state = replace(state, since=since, recent=tuple(recent), reference=tuple(reference), early=tuple(early))
    if since < 2 * window or (spreads is None and since < 10 * rate):
        return state, None
    now, then = _summary(state.recent), _summary(state.reference)
    change = [*np.abs(now[:4] - then[:4]).tolist(), _cosine_distance(now[4:], then[4:])]
    if spreads is None:
        own = np.stack(state.early)
        mean = own[:, 4:].mean(0)
        distances = [_cosine_distance(row, mean) for row in own[:, 4:]]
        spreads = (*own[:, :4].std(0).tolist(), float(np.mean(distances)))
    scores = [value / max(spread, 1e-6) for value, spread in zip(change, spreads, strict=True)]
    return state, float(np.sqrt(np.mean(np.square(scores))))
