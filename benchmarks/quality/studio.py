"""Where the benchmarks of quality get their films: one loaded model and scorer, a seeded stream a film.

Films are judged one by one and then let go: two hundred of them would not fit into memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from app.loading.engine_request import EngineRequest
from app.loading.model import Loaded, load_model, weights_checksum
from pipelines.build import build_stream
from pipelines.presets import Preset
from pipelines.streaming import Camera, Stream
from pipelines.types import Controls, Transition
from training.scorer import Scorer

TELL_EVERY = 15.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True, slots=True)
class Studio:
    """A model, the scorer, and what opens streams."""

    engine: EngineRequest
    loaded: Loaded
    scorer: Scorer
    report: Callable[[str], object]

    @classmethod
    def open(cls, engine: EngineRequest, report: Callable[[str], object]) -> Self:
        """Load model and scorer; raises as `app.loading.model.load_model`."""
        return cls(engine, load_model(engine), Scorer.load(), report)

    @property
    def card(self) -> dict[str, Any]:
        """What the model says of itself."""
        return self.loaded.components.card

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a picture."""
        height, width = self.card["sizes"][0]
        return self.engine.height or height, self.engine.width or width

    def identity(self) -> dict[str, Any]:
        """Which weights and preset a figure is of."""
        return {
            "model": self.loaded.name,
            "version": self.card.get("version"),
            "weights": weights_checksum(self.loaded.components.sources)[:16],
            "preset": self.engine.preset.name,
            "height": self.size[0],
            "width": self.size[1],
            "device": self.loaded.device,
            "threads": self.loaded.threads,
        }

    def stream(self, seed: int, preset: Preset | None = None) -> Stream:
        """A film about to begin, under the engine's preset or another; what was not trained for is allowed then."""
        height, width = self.size
        untrained = self.engine.untrained or preset is not None
        chosen = preset or self.engine.preset
        return build_stream(chosen, self.loaded.components, height=height, width=width, seed=seed, untrained=untrained)


def play(
    stream: Stream, text: str, seconds: float, transition: Transition | None = None, camera: Camera | None = None
) -> Tensor:
    """At least so many seconds of film as uint8 [T, 3, H, W]."""
    controls = Controls(text, transition or Transition())
    parts: list[np.ndarray] = []
    while sum(len(part) for part in parts) < seconds * stream.fps:
        pixels = stream.next_chunk(controls, camera=camera).pixels
        assert pixels is not None  # it was asked to decode
        parts.append(pixels)
    return torch.from_numpy(np.concatenate(parts)).permute(0, 3, 1, 2)


class Progress:
    """Tells now and then how much of a job is done, and how long the rest will take at the speed so far."""

    def __init__(self, report: Callable[[str], object], name: str, total: float, unit: str = "films") -> None:
        self._report, self._name, self._total, self._unit = report, name, total, unit
        self._done, self._start = 0.0, perf_counter()
        self._told = self._start

    def add(self, amount: float = 1.0) -> None:
        """So much more is done."""
        self._done += amount
        now = perf_counter()
        if now - self._told < TELL_EVERY or self._done >= self._total:
            return
        self._told = now
        left = (now - self._start) / self._done * (self._total - self._done)
        clock = f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
        digits = 0 if self._total >= 20 else 1
        done = f"{self._done:.{digits}f} of {self._total:.{digits}f} {self._unit}"
        self._report(f"{self._name}: {done}, about {clock} left")
