"""What becomes of a long film: does its last minute still show what its first one did, and does anything still move?

A film is looked at in short windows, each judged like a film of its own, and by the engine's five picture statistics.
Nothing else is kept, so its length costs no memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.quality.adherence import JUDGED, Judgement, tally
from benchmarks.quality.studio import Progress, Studio
from pipelines.drift import EVERY, NAMES, statistics
from pipelines.presets import Preset
from pipelines.presets.knobs import KnobError, apply_knobs
from pipelines.types import Controls
from training.captions import held_out_prompts
from training.scorer import Scorer
from training.world import ClipSpec

WINDOW = 4.0
"""Seconds judged at once: a round of what crosses the picture."""
FREEZE = 8.0
"""Seconds for which a film must stand still to count as frozen."""
CURVE = 20
"""Points of the curve over a film, at most."""


@dataclass(slots=True)
class Watcher:
    """Looks at a film while it is made: one judgement and one mean of picture statistics a window."""

    scorer: Scorer
    asked: ClipSpec
    fps: int
    judged: list[Judgement] = field(default_factory=list[Judgement])
    pictures: list[NDArray[np.float32]] = field(default_factory=list[NDArray[np.float32]])
    _waiting: list[NDArray[np.uint8]] = field(default_factory=list[NDArray[np.uint8]])

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """The next frames, uint8 RGB [T, H, W, 3]."""
        self._waiting.append(pixels)
        long = round(WINDOW * self.fps)
        while sum(len(part) for part in self._waiting) >= long:
            frames = np.concatenate(self._waiting)
            self._waiting = [frames[long:]]
            window = frames[:long]
            film = torch.from_numpy(window).permute(0, 3, 1, 2)
            self.judged.append(Judgement.of(self.scorer, film, self.asked))
            self.pictures.append(np.mean(np.stack(statistics(window[::EVERY])), axis=0))

    @property
    def freezes(self) -> int:
        """How often the object, asked to move, stood still for FREEZE seconds or more."""
        runs = (len(list(run)) for frozen, run in groupby(self.judged, key=lambda each: each.frozen) if frozen)
        return sum(run * WINDOW >= FREEZE for run in runs)


def measure(studio: Studio, *, films: int, minutes: float) -> dict[str, Any]:
    """Long films of held-out prompts, every one of something that moves, with the preset's sink and without any."""
    memories: dict[str, Preset | None] = {"sink": None}
    try:
        bare = apply_knobs(studio.engine.preset, {"sink_size": 0})
        memories |= {"no sink": bare} if bare != studio.engine.preset else {}
    except KnobError as error:
        studio.report(str(error))
    progress = Progress(studio.report, "drift", films * minutes * len(memories), "minutes of film")
    return {
        "films": films,
        "minutes": minutes,
        **{name: long_films(studio, preset, films, minutes, progress) for name, preset in memories.items()},
    }


def moving_prompts(count: int) -> list[tuple[str, ClipSpec]]:
    """Held-out prompts of what moves: only there can a film be seen to freeze."""
    some = [pair for pair in held_out_prompts(4 * count + 8, seed=3) if pair[1].motion != "still"]
    return some[:count]


def long_films(studio: Studio, preset: Preset | None, films: int, minutes: float, progress: Progress) -> dict[str, Any]:
    """Beginning, end and course of films under a preset (None: the studio's own), and the speed they were made at."""
    watchers: list[Watcher] = []
    speeds: list[float] = []
    for seed, (text, spec) in enumerate(moving_prompts(films)):
        stream = studio.stream(2000 + seed, preset)
        watcher = Watcher(studio.scorer, spec, stream.fps)
        length = 0
        while length < minutes * 60 * stream.fps:
            begun = perf_counter()
            pixels = stream.next_chunk(Controls(text)).pixels
            spent = perf_counter() - begun
            assert pixels is not None  # it was asked to decode
            speeds.append(len(pixels) / spent)
            watcher.add(pixels)
            length += len(pixels)
            progress.add(len(pixels) / stream.fps / 60)
        watchers.append(watcher)
    return compare(watchers, minutes, studio.card.get("drift_spreads")) | {"fps": median(speeds)}


def compare(watchers: Sequence[Watcher], minutes: float, spreads: Sequence[float] | None) -> dict[str, Any]:
    """The last minute of films against their first one; of films under two minutes, the halves.

    Args:
        watchers: one a film.
        minutes: length of the films.
        spreads: usual spread of each picture statistic; None takes it from the windows of the first minute.
    """
    span = max(1, round(min(60.0, minutes * 30) / WINDOW))
    first = [each for watcher in watchers for each in watcher.judged[:span]]
    last = [each for watcher in watchers for each in watcher.judged[-span:]]
    whole = [each for watcher in watchers for each in watcher.judged]
    changes = [_change(watcher.pictures, span, spreads) for watcher in watchers]
    return {
        "seconds_compared": span * WINDOW,
        "first": tally(first) | {"right": _pooled(first)},
        "last": tally(last) | {"right": _pooled(last)},
        "change": float(np.mean([np.sqrt(np.mean(np.square(list(change.values())))) for change in changes])),
        "changes": {name: float(np.mean([change[name] for change in changes])) for name in NAMES},
        "freezes": sum(watcher.freezes for watcher in watchers),
        "frozen": sum(each.frozen for each in whole) / len(whole),
        "lost": sum(each.verdict.motion == "unseen" for each in whole) / len(whole),
        "of_films": [
            {"first": _pooled(watcher.judged[:span]), "last": _pooled(watcher.judged[-span:])} for watcher in watchers
        ],
        "curve": _curve(watchers, spreads),
    }


def _pooled(judged: Sequence[Judgement]) -> float:
    """Share of all judgements of colour, shape, motion and scene that are right."""
    return float(np.mean([each.right(name) for each in judged for name in JUDGED]))


def _change(pictures: Sequence[NDArray[np.float32]], span: int, spreads: Sequence[float] | None) -> Mapping[str, float]:
    """How far each picture statistic went from the first `span` windows to the last, in usual spreads."""
    return _distance(np.stack(pictures[:span]), np.mean(np.stack(pictures[-span:]), axis=0), spreads)


def _distance(
    reference: NDArray[np.float32], now: NDArray[np.float32], spreads: Sequence[float] | None
) -> Mapping[str, float]:
    then = reference.mean(0)
    usual = spreads or [
        *reference[:, :4].std(0).tolist(),
        float(np.mean([_cosine(each[4:], then[4:]) for each in reference])),
    ]
    moved = [*np.abs(now[:4] - then[:4]).tolist(), _cosine(now[4:], then[4:])]
    return {name: move / max(spread, 1e-6) for name, move, spread in zip(NAMES, moved, usual, strict=True)}


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return 1 - float(one @ other) / norm if norm > 0 else 0.0


def _curve(watchers: Sequence[Watcher], spreads: Sequence[float] | None) -> list[dict[str, float]]:
    """What is right and how far the pictures went, over the films, in at most CURVE stretches."""
    count = min(len(watcher.judged) for watcher in watchers)
    rows: list[dict[str, float]] = []
    for part in np.array_split(np.arange(count), min(CURVE, count)):
        judged = [watcher.judged[index] for watcher in watchers for index in part]
        changes = [
            _distance(
                np.stack(watcher.pictures[: max(2, count // CURVE)]),
                np.mean([watcher.pictures[i] for i in part], axis=0),
                spreads,
            )
            for watcher in watchers
        ]
        rows.append(
            {
                "minute": float((part[0] + part[-1] + 1) / 2 * WINDOW / 60),
                **{name: float(np.mean([each.right(name) for each in judged])) for name in (*JUDGED, "all")},
                "right": _pooled(judged),
                "frozen": float(np.mean([each.frozen for each in judged])),
                "change": float(np.mean([np.sqrt(np.mean(np.square(list(c.values())))) for c in changes])),
            }
        )
    return rows
