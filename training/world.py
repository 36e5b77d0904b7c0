"""The small painted world the embedded model knows: endless clips with exact labels instead of a data set.

A clip is a pure function of its `ClipSpec` and the absolute pixel-frame number: any window of it can be
painted alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from training.atmosphere import DAYLIT, HOURS, WEATHERS, air, rain
from training.clip import RELATIONS, ClipSpec, Companion, Switch
from training.scenes import PAINTERS, scenery
from training.shapes import DISTANCE, PATTERNS, paint

FPS, SIZE = 16, 192
"""Pixel frames a second, and pixels along each side."""
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.93, 0.13, 0.16),
    "orange": (1.0, 0.52, 0.06),
    "yellow": (1.0, 0.88, 0.16),
    "green": (0.16, 0.74, 0.28),
    "blue": (0.13, 0.36, 0.95),
    "purple": (0.56, 0.22, 0.82),
    "pink": (1.0, 0.50, 0.76),
    "white": (0.99, 0.99, 0.99),
}
SHAPES: tuple[str, ...] = tuple(DISTANCE)
SIZES: dict[str, float] = {"small": 0.16, "big": 0.25}
MOTIONS: tuple[str, ...] = ("left", "right", "up", "down", "bounce", "orbit", "still", "spin")
SCENES: tuple[str, ...] = tuple(PAINTERS)

CAMERAS: tuple[str, ...] = ("fixed", "drifting")
PAIRED: tuple[str, ...] = ("left", "right", "up", "down", "still", "spin")
"""Motions that two objects make together."""
PLAIN, CLEAR, BY_DAY, FIXED, ALONE = 0.72, 0.8, 0.8, 0.88, 0.85
"""Shares of clips without a pattern, weather, night (where there is a choice), moving camera and companion."""

SPEED = 1.4 / 64
"""Picture sizes per pixel frame of an object that crosses the picture: one round in four seconds."""
MARGIN = 0.2
"""How far outside the picture a crossing object turns up on the other side."""
SPAN = 1 + 2 * MARGIN
BOUNCE_FRAMES, BOUNCE_HEIGHT, FLOOR = 20, 0.40, 0.92
ORBIT_FRAMES, ORBIT_RADIUS = 48, 0.22
SPIN_FRAMES = 32
SETTLE_FRAMES = 6.0
"""Time constant with which an object that starts outside its motion's usual place glides there."""


def is_held_out(color: str, shape: str, motion: str, scene: str) -> bool:
    """Whether a combination belongs to the fixed twentieth of all combinations that training never shows."""
    return zlib.crc32(f"{color}|{shape}|{motion}|{scene}".encode()) % 20 == 0


def sample_spec(
    rng: np.random.Generator,
    *,
    at: tuple[float, float] | None = None,
    keep: ClipSpec | None = None,
    begin: int = 0,
    held_out: bool = False,
    simple: bool = False,
) -> ClipSpec:
    """Draw a clip.

    Args:
        rng: the only source of chance.
        at: where the object is at pixel frame `begin`; drawn when None.
        keep: a clip whose scenery (scene, style and phase) to keep.
        begin: pixel frame of `at`.
        held_out: draw among the combinations that training never shows, instead of the others.
        simple: one plain object in clear weather at the scene's usual hour, before a fixed camera.
    """
    company = not simple and rng.random() >= ALONE
    while True:
        color, shape = str(rng.choice(list(COLORS))), str(rng.choice(SHAPES))
        motion = str(rng.choice(PAIRED if company else MOTIONS))
        scene = keep.scene if keep else str(rng.choice(SCENES))
        if is_held_out(color, shape, motion, scene) == held_out:
            break
    size = "small" if company else str(rng.choice(list(SIZES)))
    phase, style = (keep.phase, keep.style) if keep else (float(rng.random()), int(rng.integers(1 << 20)))
    x, y = at if at is not None else _starting_place(rng, motion, size)
    spec = ClipSpec(color, shape, size, motion, scene, x, y, phase, style, begin)
    if simple:
        return spec
    if keep:
        spec = replace(spec, weather=keep.weather, hour=keep.hour, camera=keep.camera)
    else:
        spec = replace(
            spec,
            weather="clear" if rng.random() < CLEAR else str(rng.choice(WEATHERS[1:])),
            hour="usual" if scene not in DAYLIT or rng.random() < BY_DAY else HOURS[1],
            camera=CAMERAS[rng.random() >= FIXED],
        )
    pattern = "plain" if rng.random() < PLAIN else str(rng.choice(PATTERNS[1:]))
    second = Companion(str(rng.choice(list(COLORS))), str(rng.choice(SHAPES)), str(rng.choice(list(RELATIONS))))
    spec = replace(spec, pattern=pattern, companion=second if company else None)
    if company and at is None:  # room for two from the first frame on
        x, y = _usual_path(spec, np.zeros(1))[0][0]
        spec = replace(spec, x=float(x), y=float(y))
    return spec


def _starting_place(rng: np.random.Generator, motion: str, size: str) -> tuple[float, float]:
    x, y = rng.uniform(0.25, 0.75, 2)
    if motion == "orbit":
        angle = rng.uniform(0, math.tau)
        x, y = 0.5 + ORBIT_RADIUS * math.cos(angle), 0.5 + ORBIT_RADIUS * math.sin(angle)
    elif motion == "bounce":
        low = FLOOR - SIZES[size]
        x, y = rng.uniform(0.3, 0.7), rng.uniform(low - BOUNCE_HEIGHT, low)
    elif motion in ("left", "right", "up", "down"):
        along = rng.uniform(0.15, 0.85)
        x, y = (along, y) if motion in ("left", "right") else (x, along)
    return float(x), float(y)


def positions(spec: ClipSpec, frames: int, start: int = 0) -> np.ndarray:
    """Centre (x, y) of the object from pixel frame `start` on, [frames, 2] float64, -MARGIN .. 1 + MARGIN."""
    return _path(spec, np.arange(start, start + frames))[0]


def object_stretch(spec: ClipSpec, frames: int, start: int = 0) -> np.ndarray:
    """Width and height of the object over its size, [frames, 2]: a bounce squashes it, a spin shows its edge."""
    return _path(spec, np.arange(start, start + frames))[1]


def _path(spec: ClipSpec, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres [T, 2] and stretches [T, 2] of the object at the given pixel frames."""
    t = np.concatenate([[0.0], frame - spec.begin])
    place, stretch = _usual_path(spec, t)
    settle = np.exp(-np.maximum(t, 0) / SETTLE_FRAMES)[:, None]
    place = place + (np.array([spec.x, spec.y]) - place[0]) * settle
    across = [spec.motion in ("left", "right"), spec.motion in ("up", "down")]
    place = np.where(across, np.remainder(place + MARGIN, SPAN) - MARGIN, place)
    return place[1:], stretch[1:]


def _usual_path(spec: ClipSpec, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres and stretches [T, 2], `t` pixel frames after the beginning, of a motion in its usual place."""
    stretch = np.ones((len(t), 2))
    beside = np.array(spec.companion_offset)  # both stay well inside
    low, high = 0.25 - np.minimum(beside, 0), 0.75 - np.maximum(beside, 0)
    x, y = (np.full_like(t, place) for place in np.clip((spec.x, spec.y), low, high))
    if spec.motion in ("left", "right"):
        x = spec.x + SPEED * t * (1 if spec.motion == "right" else -1)
    elif spec.motion in ("up", "down"):
        y = spec.y + SPEED * t * (1 if spec.motion == "down" else -1)
    elif spec.motion == "bounce":
        low = FLOOR - SIZES[spec.size]
        x = np.full_like(t, np.clip(spec.x, 0.3, 0.7))
        first = np.clip(spec.y, low - BOUNCE_HEIGHT, low)
        fallen = math.sqrt((first - low + BOUNCE_HEIGHT) / BOUNCE_HEIGHT)
        swing = np.remainder(fallen + 2 * t / BOUNCE_FRAMES + 1, 2) - 1
        squash = 0.24 * np.exp(-(((1 - np.abs(swing)) / 0.12) ** 2))
        y = low - BOUNCE_HEIGHT * (1 - swing**2) + SIZES[spec.size] * squash
        stretch = np.stack([1 + 0.8 * squash, 1 - squash], -1)
    elif spec.motion == "orbit":
        angle = math.atan2(spec.y - 0.5, spec.x - 0.5) + math.tau * t / ORBIT_FRAMES
        x, y = 0.5 + ORBIT_RADIUS * np.cos(angle), 0.5 + ORBIT_RADIUS * np.sin(angle)
    elif spec.motion == "spin":
        stretch[:, 0] = np.sqrt(np.cos(math.tau * t / SPIN_FRAMES) ** 2 + 0.05) / math.sqrt(1.05)
    return np.stack([x, y], -1), stretch


def render(
    specs: Sequence[ClipSpec],
    frames: int,
    *,
    start: int | Sequence[int] = 0,
    size: int = SIZE,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Paint clips.

    Args:
        specs: the clips.
        frames: pixel frames of each.
        start: first pixel frame, of all or of each.
        size: pixels along each side.
        device: where to paint.

    Returns:
        [len(specs), frames, 3, size, size] float32, 0..1.
    """
    return snapshots(specs, _clocks(len(specs), frames, start), size=size, device=device)


def snapshots(
    specs: Sequence[ClipSpec], clocks: np.ndarray, *, size: int = SIZE, device: str | torch.device = "cpu"
) -> Tensor:
    """Paint clips at any pixel frames `clocks` [N, T]; arguments and result as of `render`."""
    paths = [_path(spec, clock) for spec, clock in zip(specs, clocks, strict=True)]
    return _render(specs, paths, clocks, size, torch.device(device))


def _clocks(clips: int, frames: int, start: int | Sequence[int]) -> np.ndarray:
    starts = [start] * clips if isinstance(start, int | np.integer) else list(start)
    if len(starts) != clips:
        raise ValueError(f"{clips} clips need as many starts, not {len(starts)}; one number serves all clips.")
    return np.stack([np.arange(first, first + frames) for first in starts])


def _render(
    looks: Sequence[ClipSpec],
    paths: Sequence[tuple[np.ndarray, np.ndarray]],
    clocks: np.ndarray,
    size: int,
    device: torch.device,
) -> Tensor:
    """Paint what `looks` show, objects on `paths` (centres, stretches), at pixel frames `clocks` [N, T]."""
    film = torch.empty(len(looks), clocks.shape[1], 3, size, size, device=device)
    if device.type != "cpu":
        return _paint_together(film, looks, paths, clocks)
    for i in range(len(looks)):  # one clip at a time stays in the processor's cache: two times faster
        _paint_together(film[i : i + 1], looks[i : i + 1], paths[i : i + 1], clocks[i : i + 1])
    return film


def _paint_together(
    film: Tensor,
    looks: Sequence[ClipSpec],
    paths: Sequence[tuple[np.ndarray, np.ndarray]],
    clocks: np.ndarray,
) -> Tensor:
    """Fill `film` [N, T, 3, S, S], as of `_render`: clips that share a scene or a shape are painted at once."""
    size, device = film.shape[-1], film.device
    frames = torch.from_numpy(clocks).to(device, torch.float32)
    for scene in SCENES:
        rows = [i for i, look in enumerate(looks) if look.scene == scene]
        if rows:
            some = [looks[i] for i in rows]
            film[rows] = scenery(scene, [s.style for s in some], [s.phase for s in some], frames[rows], size, FPS)
    air(film, looks, frames / FPS)
    for company in (False, True):
        _paint_objects(film, looks, paths, company)
    rain(film, looks, frames / FPS)
    return film


def _paint_objects(
    film: Tensor, looks: Sequence[ClipSpec], paths: Sequence[tuple[np.ndarray, np.ndarray]], company: bool
) -> None:
    """Draw every clip's object, or every companion there is, into `film` [N, T, 3, S, S]."""
    size, device = film.shape[-1], film.device
    pixel = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size
    things = [look.companion if company else look for look in looks]
    for shape in SHAPES:
        rows = [i for i, thing in enumerate(things) if thing is not None and thing.shape == shape]
        if not rows:
            continue
        aside = [looks[i].companion_offset if company else (0.0, 0.0) for i in rows]
        drawn = (
            np.stack([paths[i][0] + place for i, place in zip(rows, aside, strict=True)]),
            np.stack([paths[i][1] for i in rows]),
        )
        centre, stretch = (torch.tensor(part, dtype=torch.float32, device=device) for part in drawn)
        offset = torch.remainder(pixel - centre[..., None] + SPAN / 2, SPAN) - SPAN / 2
        colour = torch.tensor([COLORS[thing.color] for i in rows if (thing := things[i])], device=device)
        radius = torch.tensor([SIZES[looks[i].size] for i in rows], device=device)
        patterns = ["plain" if company else looks[i].pattern for i in rows]
        picture = film[rows]
        paint(picture, shape, patterns, colour, offset[:, :, 0], offset[:, :, 1], radius, stretch)
        film[rows] = picture


def render_switch(
    switches: Sequence[Switch],
    frames: int,
    *,
    start: int | Sequence[int] = 0,
    size: int = SIZE,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Paint films with a switch; arguments and result as of `render`.

    From the switch on the object moves as `second` says while its look and the scenery dissolve: nothing is
    seen twice, and nothing that stays the same jumps.
    """
    clocks = _clocks(len(switches), frames, start)
    paths, shares = [], []
    for switch, clock in zip(switches, clocks, strict=True):
        late = (clock >= switch.frame)[:, None]
        before, after = _path(switch.first, clock), _path(switch.second, clock)
        paths.append((np.where(late, after[0], before[0]), np.where(late, after[1], before[1])))
        shares.append(np.clip((clock - switch.frame + 1) / (switch.fade + 1), 0, 1))
    where, share = torch.device(device), np.stack(shares)
    old, new = (share < 1).any(axis=0), (share > 0).any(axis=0)  # what is not to be seen is not painted
    film = torch.zeros(len(switches), frames, 3, size, size, device=where)
    if old.any():
        film[:, old] = _render([switch.first for switch in switches], _at(paths, old), clocks[:, old], size, where)
    if new.any():
        after = _render([switch.second for switch in switches], _at(paths, new), clocks[:, new], size, where)
        much = torch.tensor(share[:, new], dtype=torch.float32, device=where)
        film[:, new] = film[:, new].lerp_(after, much[:, :, None, None, None])
    return film


def _at(paths: Sequence[tuple[np.ndarray, np.ndarray]], frames: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Some frames of paths."""
    return [(centre[frames], stretch[frames]) for centre, stretch in paths]


def switch_positions(switch: Switch, frames: int, start: int = 0) -> np.ndarray:
    """Centre of the object in a film with a switch, as of `positions`."""
    late = np.arange(start, start + frames)[:, None] >= switch.frame
    return np.where(late, positions(switch.second, frames, start), positions(switch.first, frames, start))


SWITCHES = {"scene": 0.25, "object": 0.2, "both": 0.18, "motion": 0.14, "weather": 0.05, "one": 0.08, "all": 0.1}
"""What changes in a film with a switch, and how often."""


def sample_switch(rng: np.random.Generator, frames: int) -> Switch:
    """Draw a film of `frames` pixel frames that switches in its middle half, mostly scene or object."""
    first = sample_spec(rng)
    frame = int(rng.integers(frames // 4, max(frames // 4 + 1, 3 * frames // 4)))
    x, y = positions(first, 1, frame)[0]
    kind = str(rng.choice(list(SWITCHES), p=list(SWITCHES.values())))
    if first.companion and kind not in ("scene", "weather"):
        kind = "all"
    looks, place = ("color", "shape", "size", "pattern"), ("scene", "hour", "weather", "camera")
    change = {
        "scene": place,
        "object": looks,
        "both": (*looks, *place),
        "motion": ("motion",),
        "weather": ("weather",),
        "one": (str(rng.choice(["color", "shape", "size"])),),
        "all": (*looks, "motion", "companion", *place),
    }[kind]
    while True:
        fresh = sample_spec(rng, at=(float(x), float(y)), begin=frame)
        if fresh.companion and kind != "all":
            continue
        names = change if "scene" not in change else (*change, "style", "phase")
        second = replace(first, **{name: getattr(fresh, name) for name in names})
        if "motion" in change or (first.motion == "bounce" and second.size != first.size):  # another floor
            second = replace(second, x=fresh.x, y=fresh.y, begin=frame)
        if second == first or is_held_out(second.color, second.shape, second.motion, second.scene):
            continue
        same = [
            name for name in ("scene", "motion") if name in change and getattr(second, name) == getattr(first, name)
        ]
        if same:
            continue
        return Switch(first, second, frame, int(rng.choice([0, 4, 8, 8, 12])))
