"""The instruments of the quality benchmark held against films whose truth is known: clips that the world itself paints.

A scorer that errs on true films makes every other figure worthless; and no model can be better than its autoencoder.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.errors import UsageMistake
from benchmarks.quality.adherence import CHOICES, JUDGED, RICH, Judgement, conditions, tally
from benchmarks.quality.intervals import share
from benchmarks.quality.studio import Progress, Studio
from benchmarks.quality.switching import LOOKS, finite, times
from models.taehv import AutoencoderTAEHV
from training.scorer import Scorer
from training.world import FPS, ClipSpec, Switch, positions, render, render_switch, sample_spec

FRAMES = 33
"""Pixel frames of a clip: enough for every motion."""


def clips(count: int, *, simple: bool) -> list[ClipSpec]:
    """Clips as training never shows them, equal from run to run; plain ones, or with all that the world has."""
    rng = np.random.default_rng((7411, 5, simple))
    return [sample_spec(rng, held_out=True, simple=simple) for _ in range(count)]


def measure_scorer(studio: Studio, *, count: int) -> dict[str, Any]:
    """What the scorer says of true films, of shuffled prompts, of a frozen film and of switches."""
    rich = max(1, round(RICH * count))
    progress = Progress(studio.report, "scorer", count + rich, "clips")
    judged: list[Judgement] = []
    stopped: list[bool] = []
    for spec in (*clips(count, simple=True), *clips(rich, simple=False)):
        film = paint(spec, studio.size[0], FRAMES, start=3)
        judged.append(Judgement.of(studio.scorer, film, spec))
        middle = FRAMES // 2
        place = positions(spec, 1, 3 + middle)
        if spec.motion != "still" and 0.1 < place.min() < place.max() < 0.9:  # out of sight it cannot be seen to stop
            still = film[middle : middle + 1].expand(FRAMES, -1, -1, -1)
            stopped.append(Judgement.of(studio.scorer, still, spec).frozen)
        progress.add()
    errors = {
        what: [abs(switch_error(studio.scorer, studio.size[0], seed, what)) for seed in range(max(2, count // 8))]
        for what in ("looks", "motion")
    }
    return {
        "clips": count,
        **tally(judged[:count]),
        "rich": {"clips": rich, **tally(judged[count:]), "conditions": conditions(judged[count:])},
        "shuffled": shuffled(judged[:count]),
        "frozen_called_frozen": share(sum(stopped), len(stopped)),
        "switch_error": {
            what: {
                "median": finite(float(np.median(each))),
                "p90": finite(float(np.quantile(each, 0.9, method="lower"))),
            }
            for what, each in errors.items()
        },
    }


def paint(spec: ClipSpec, size: int, frames: int, start: int = 0) -> Tensor:
    """A true film, uint8 [T, 3, size, size]."""
    return (render([spec], frames, start=start, size=size)[0] * 255).round().to(torch.uint8)


def shuffled(judged: list[Judgement]) -> dict[str, dict[str, float]]:
    """Share right when every film is held against the prompt of every other one, beside what chance gives."""
    result: dict[str, dict[str, float]] = {}
    for name in JUDGED:
        right = [
            getattr(here.verdict, name) == getattr(there.asked, name)
            for here in judged
            for there in judged
            if here is not there
        ]
        result[name] = {"share": float(np.mean(right)), "chance": 1 / len(CHOICES[name])}
    return result


def switch_error(scorer: Scorer, size: int, seed: int, what: str, wait: int = 12) -> float:
    """Seconds between where a painted film changes, and where the benchmark sees it; negative is early.

    Args:
        scorer: the one to test.
        size: of the picture.
        seed: of the film.
        what: "looks" of an object at rest and its scene, or the "motion" of one that stays what it is.
        wait: frames of film before the change.
    """
    rng = np.random.default_rng((7411, 6, seed))
    first = sample_spec(rng, simple=True)
    if what == "looks":
        first = replace(first, motion="still")
    x, y = np.clip(positions(first, 1, wait)[0], 0.25, 0.75)
    while True:
        other = sample_spec(rng, at=(float(x), float(y)), begin=wait, simple=True)
        if what == "motion" and other.motion != first.motion:
            second = replace(first, motion=other.motion, x=other.x, y=other.y, begin=wait)
            break
        if what == "looks" and all(getattr(first, name) != getattr(other, name) for name in LOOKS):
            second = replace(other, motion="still")
            break
    film = render_switch([Switch(first, second, frame=wait, fade=0)], 72, size=size)[0]
    seen = times(scorer, (film * 255).round().to(torch.uint8), first, second, FPS)[what]
    return seen - wait / FPS


def measure_autoencoder(studio: Studio, *, count: int) -> dict[str, Any]:
    """How well held-out clips survive the autoencoder: PSNR of all, and the scorer's view of plain and of rich ones."""
    autoencoder = studio.loaded.components.autoencoder
    if not isinstance(autoencoder, AutoencoderTAEHV):
        raise UsageMistake("Only the embedded model's own kind of autoencoder is measured. Leave --model out.")
    weight = next(autoencoder.parameters())
    rich = max(1, round(RICH * count))
    progress = Progress(studio.report, "reconstruction", count + rich, "clips")
    errors: list[float] = []
    judged: list[Judgement] = []
    for spec in (*clips(count, simple=True), *clips(rich, simple=False)):
        truth = render([spec], FRAMES, size=studio.size[0]).to(weight)
        with torch.inference_mode():
            made = autoencoder.decode(autoencoder.encode(truth, pad="start"))
        errors.append(float((made.float() - truth.float()).square().mean()))
        judged.append(Judgement.of(studio.scorer, made[0].float().cpu(), spec))
        progress.add()
    each = [-10 * math.log10(error) for error in errors]
    return {
        "clips": count,
        "psnr_db": -10 * math.log10(float(np.mean(errors))),
        "worst_tenth_db": float(np.quantile(each, 0.1)),
        **tally(judged[:count]),
        "rich": {"clips": rich, **tally(judged[count:]), "conditions": conditions(judged[count:])},
    }
