"""Whether films show what was asked for, judged by the scorer on prompts that training never saw.

Adherence: one fresh film a held-out prompt, each attribute right or wrong. Switch: the same after a new prompt in the
middle of a film, with the time until what changed is right and stays right for half a second.
"""

import math
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from app.opening import EngineRequest
from pipelines.build import Components, build_stream, load_components
from pipelines.streaming import Stream
from pipelines.types import Controls, Transition
from training.captions import held_out_prompts
from training.scorer import ATTRIBUTES, Scorer, adherence
from training.world import ClipSpec

HOLD = 0.5
"""Seconds that changed attributes must stay right to count as switched."""


def measure(
    engine: EngineRequest,
    *,
    prompts: int = 100,
    switches: int = 30,
    seconds: float = 4.0,
    report: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Render and judge; every film has its own seed, equal from run to run."""
    components = load_components(engine.model or engine.preset.model)
    scorer = Scorer.load()
    start = told = perf_counter()
    asked = held_out_prompts(prompts, seed=0)
    films: list[Tensor] = []
    for index, (text, _) in enumerate(asked):
        films.append(_play(_open(engine, components, index), text, seconds))
        if perf_counter() - told > 15:
            told = perf_counter()
            report(f"film {index + 1} of {prompts}")
    result: dict[str, Any] = {
        "benchmark": "quality",
        "preset": engine.preset.name,
        "model": components.name,
        "prompts": prompts,
        "seconds_a_film": seconds,
        "adherence": adherence(films, [spec for _, spec in asked], scorer),
    }
    for kind in ("recache", "keep", "cut"):
        report(f"{switches} switches with {kind}")
        result[f"switch_{kind}"] = _switches(engine, components, scorer, Transition(kind), switches, seconds)
    result["minutes"] = (perf_counter() - start) / 60
    return result


def _open(engine: EngineRequest, components: Components, seed: int) -> Stream:
    return build_stream(
        engine.preset,
        components,
        height=engine.height,
        width=engine.width,
        seed=seed,
        untrained=engine.untrained,
    )


def _play(stream: Stream, text: str, seconds: float, transition: Transition | None = None) -> Tensor:
    """At least so many seconds of film as uint8 [T, 3, H, W]."""
    controls = Controls(text, transition or Transition())
    parts: list[np.ndarray] = []
    while sum(len(part) for part in parts) < seconds * stream.fps:
        pixels = stream.next_chunk(controls).pixels
        assert pixels is not None
        parts.append(pixels)
    return torch.from_numpy(np.concatenate(parts)).permute(0, 3, 1, 2)


def _switches(
    engine: EngineRequest, components: Components, scorer: Scorer, how: Transition, count: int, seconds: float
) -> dict[str, Any]:
    """Films that change their prompt after `seconds`: what is right afterwards, and how soon."""
    before, after = held_out_prompts(count, seed=1), held_out_prompts(count, seed=2)
    films: list[Tensor] = []
    waits: list[float] = []
    for index, ((first, old), (second, new)) in enumerate(zip(before, after, strict=True)):
        stream = _open(engine, components, 1000 + index)
        _play(stream, first, seconds)
        film = _play(stream, second, seconds, how)
        films.append(film[stream.fps :])  # the judgement leaves the first second to the transition
        waits.append(time_until_right(scorer, film, old, new, stream.fps))
    reached = [wait for wait in waits if math.isfinite(wait)]
    return {
        "adherence": adherence(films, [spec for _, spec in after], scorer),
        "reached": len(reached) / len(waits),
        "seconds_median": _finite(median(waits)),
        "seconds_p90": _finite(float(np.quantile(waits, 0.9, method="higher"))),
    }


def time_until_right(scorer: Scorer, film: Tensor, old: ClipSpec, new: ClipSpec, fps: int) -> float:
    """Seconds until all changed looks (colour, shape, scene; motion needs a longer look) are right for HOLD seconds."""
    reading = scorer.read(film)
    right = np.ones(len(film), dtype=bool)
    for name in ("color", "shape", "scene"):
        wanted = getattr(new, name)
        if wanted != getattr(old, name):
            right &= reading.logits[name].argmax(-1) == ATTRIBUTES[name].index(wanted)
    hold = max(1, int(HOLD * fps))
    stays = np.convolve(right, np.ones(hold, dtype=int), mode="valid") == hold
    return float(stays.argmax() / fps) if stays.any() else math.inf


def _finite(seconds: float) -> float | None:
    """None for "never": JSON has no infinity."""
    return seconds if math.isfinite(seconds) else None


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f}"


def table(result: dict[str, Any]) -> Table:
    """Lay the numbers out for a person."""
    names = ("color", "shape", "motion", "scene", "all")
    grid = Table(
        title=f"quality of {result['model']} under {result['preset']}: {result['prompts']} held-out prompts, "
        f"{result['seconds_a_film']:g} s a film"
    )
    for heading in ("", *names, "speed", "switched", "median s", "90 % s"):
        grid.add_column(heading, justify="right" if heading else "left")
    rows = {"fresh film": {"adherence": result["adherence"]}} | {
        f"after {kind}": result[f"switch_{kind}"] for kind in ("recache", "keep", "cut")
    }
    for label, row in rows.items():
        scores = row["adherence"]
        switch = (
            [f"{row['reached']:.0%}", _seconds(row["seconds_median"]), _seconds(row["seconds_p90"])]
            if "reached" in row
            else ["", "", ""]
        )
        grid.add_row(label, *(f"{scores[name]:.0%}" for name in names), f"{scores['speed']:.2f}", *switch)
    return grid
