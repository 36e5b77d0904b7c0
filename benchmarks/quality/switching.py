"""How soon and how smoothly a film follows a new prompt, for every way a new prompt can take over.

One stream plays up to the switch and is put back there for each way, so all of them answer the same question.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from statistics import median
from typing import Any, cast

import numpy as np
from torch import Tensor

from benchmarks.quality.adherence import Judgement, tally
from benchmarks.quality.intervals import share
from benchmarks.quality.studio import Progress, Studio, play
from pipelines.presets import Preset
from pipelines.types import Transition
from training.captions import held_out_prompts
from training.scorer import ATTRIBUTES, Reading, Scorer, verdict
from training.world import ClipSpec

KINDS: dict[str, Transition] = {
    "recache": Transition(),
    "soft": Transition("soft", 2),
    "keep": Transition("keep"),
    "cut": Transition("cut"),
}
LOOKS = ("color", "shape", "scene")
HOLD = 0.5
"""Seconds that changed looks must stay right to count as switched."""
LOOK = 1.07
"""Seconds of film in which a motion is told from the others: the least that can be, since a longer look that is mostly
of the new motion finds it before it has begun."""
STRIDE = 2
"""Pixel frames between two looks at the motion."""


def measure(
    studio: Studio,
    *,
    pairs: int,
    before: float,
    after: float,
    kinds: Mapping[str, Transition] = KINDS,
    preset: Preset | None = None,
) -> dict[str, Any]:
    """Films that change their prompt: what is right afterwards, how soon, and how hard the picture jumps.

    Args:
        studio: the model.
        pairs: of prompts, held out from training; each pair has its own seed.
        before: seconds of film up to the switch.
        after: seconds behind it.
        kinds: ways to switch.
        preset: in place of the studio's.
    """
    olds, news = held_out_prompts(pairs, seed=1), held_out_prompts(pairs, seed=2)
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    judged: dict[str, list[Judgement]] = {kind: [] for kind in kinds}
    progress = Progress(studio.report, "switches", pairs * len(kinds))
    for index, ((first, old), (second, new)) in enumerate(zip(olds, news, strict=True)):
        stream = studio.stream(1000 + index, preset)
        history = play(stream, first, before)
        moment = stream.snapshot()
        for kind, transition in kinds.items():
            stream.restore(moment)
            film = play(stream, second, after, transition)
            rows[kind].append(times(studio.scorer, film, old, new, stream.fps) | {"jump": jump(history, film)})
            late = film[min(stream.fps, len(film) // 2) :]  # a second is left to the transition
            judged[kind].append(Judgement.of(studio.scorer, late, new))
            progress.add()
    return {
        "pairs": pairs,
        "seconds_before": before,
        "seconds_after": after,
        **{kind: summary(rows[kind]) | {"adherence": tally(judged[kind])} for kind in kinds},
    }


def times(scorer: Scorer, film: Tensor, old: ClipSpec, new: ClipSpec, fps: int) -> dict[str, float]:
    """Seconds from the beginning of `film` until what changed is right: its looks, its motion, and both."""
    reading = scorer.read(film)
    looks = _until_looks(reading, old, new, fps)
    motion = 0.0 if new.motion == old.motion else _until_motion(reading, new.motion, fps)
    return {"looks": looks, "motion": motion, "all": max(looks, motion)}


def time_until_right(scorer: Scorer, film: Tensor, old: ClipSpec, new: ClipSpec, fps: int) -> float:
    """Seconds until all changed looks (colour, shape, scene) are right for HOLD seconds; infinite if never."""
    return _until_looks(scorer.read(film), old, new, fps)


def _until_looks(reading: Reading, old: ClipSpec, new: ClipSpec, fps: int) -> float:
    right = np.ones(len(reading.present), dtype=bool)
    for name in LOOKS:
        wanted = getattr(new, name)
        if wanted != getattr(old, name):
            right &= reading.logits[name].argmax(-1) == ATTRIBUTES[name].index(wanted)
    hold = max(1, int(HOLD * fps))
    if len(right) < hold:
        return math.inf
    stays = np.convolve(right, np.ones(hold, dtype=int), mode="valid") == hold
    return float(stays.argmax() / fps) if stays.any() else math.inf


def _until_motion(reading: Reading, motion: str, fps: int) -> float:
    """When the object is first seen in the first LOOK seconds that show the motion, and still do HOLD seconds later.

    Films that are painted say how exact that is (benchmarks/quality/painted.py): to about half a second, mostly early.
    """
    long, hold = round(LOOK * fps), round(HOLD * fps)

    def shown(start: int) -> bool:
        return verdict(stretch_of(reading, start, start + long)).motion == motion

    for start in range(0, len(reading.present) - long - hold + 1, STRIDE):
        if shown(start) and shown(start + hold):
            return (start + int(np.argmax(reading.present[start : start + long] > 0.5))) / fps
    return math.inf


def stretch_of(reading: Reading, start: int, stop: int) -> Reading:
    """What was read in some of the frames."""
    return cast("Reading", _cut(reading, slice(start, stop)))


def _cut(seen: object, part: slice) -> object:
    """Some of the frames of anything that is read, all of whose arrays begin with the frames."""
    if isinstance(seen, np.ndarray):
        return seen[part]
    if isinstance(seen, dict):
        return {name: _cut(values, part) for name, values in seen.items()}
    if is_dataclass(seen) and not isinstance(seen, type):
        return replace(seen, **{each.name: _cut(getattr(seen, each.name), part) for each in fields(seen)})
    return seen


def jump(before: Tensor, after: Tensor) -> float:
    """How far the picture moves from the last frame to the first new one, over its usual step (1 = unnoticed).

    The usual step is the median one of the second before; films are uint8 [T, 3, H, W].
    """
    late = before[-17:].float()
    usual = float((late[1:] - late[:-1]).abs().mean((1, 2, 3)).median())
    step = float((after[0].float() - late[-1]).abs().mean())
    return step / max(usual, 0.05)  # a picture at rest would make any step infinite


def summary(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Shares that got there, medians, ninth deciles, and every wait; None stands for never."""
    result: dict[str, Any] = {"reached": share(sum(math.isfinite(row["all"]) for row in rows), len(rows))}
    for name in ("all", "looks", "motion"):
        waits = sorted(row[name] for row in rows)
        result[name] = {
            "median": finite(median(waits)),
            "p90": finite(float(np.quantile(waits, 0.9, method="higher"))),
            "waits": [finite(wait) for wait in waits],
        }
    result["jump"] = median(row["jump"] for row in rows)
    return result


def finite(seconds: float) -> float | None:
    """None for "never": JSON has no infinity."""
    return seconds if math.isfinite(seconds) else None
