"""Layers that feature caches spare, counted: in a stream as it runs, and at most, if nothing ever changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cache import FEATURE_CACHES
from cache.layer_plan import LayerPlan
from cache.types import Slots, View

if TYPE_CHECKING:
    from torch import Tensor

    from models.transformer import Batch, Runner

ALWAYS: dict[str, dict[str, Any]] = {
    "first-block": {"threshold": 1.0},
    "cross-chunk": {"limit": 1.0},
    "profiled": {"background": (0, *range(2, 8), *range(10, 21))},  # 60 % of 30 layers; of Wan 14B's 40 it was 70 %
    "teacache": {"threshold": 1e9},
}
"""Settings under which whatever may be used again is."""
_COUNTED = 12
_KEYS = 0.1
"""Of a layer, where only keys and values are computed."""


class Counting:
    """Counts the layers that a runner computes."""

    def __init__(self, runner: Runner, layers: int) -> None:
        self._runner, self._layers = runner, layers
        self.computed = 0.0

    def run(self, batches: Sequence[Batch]) -> Sequence[Tensor]:
        for batch in batches:
            self.computed += _computed(batch.layers, self._layers)
        return self._runner.run(batches)


def _computed(plan: LayerPlan, layers: int) -> float:
    """Layers that a pass computes."""
    runs = (layer for layer in range(layers) if plan.runs(layer))
    return sum(_KEYS if plan.only_keys(layer) else 1.0 for layer in runs)


def counted(layers: int, steps: int) -> dict[str, float]:
    """Share of the layers of a chunk that every cache computes if nothing ever changes: the most it can save.

    Args:
        layers: of the model.
        steps: denoising passes of a chunk, which a pass that writes the memory follows.
    """
    import torch

    from cache.layer_plan import Done
    from cache.residuals import Residuals, leave, taken
    from schedulers.serial import Serial

    plan = Serial(tuple(1000.0 - number for number in range(steps)), step="euler")
    shares: dict[str, float] = {}
    for name, kind in FEATURE_CACHES.items():
        policy = kind(plan.levels, plan.chunk, **ALWAYS.get(name, {}))
        held = Residuals(policy.buffers(layers), (1, 1, 1), policy.chunks * plan.chunk, "cpu", torch.float32, layers)
        computed = 0.0
        for chunk in range(_COUNTED):
            for work in plan.passes(View(chunk * plan.chunk, 1)):
                row = work.rows[0]
                asked = policy.plan(work, row, Slots(0, row.frames.start, ()), held.left)
                along = taken(asked, [(held, row.frames)])
                leave(asked, along, [(held, row.frames)])
                if work.kind == "denoise":
                    same = torch.zeros(1) if asked.measures else None
                    held.over(Done(row.frames.start, row.levels[0], not asked.skip), same, plan.chunk)
                computed += _computed(asked, layers)
        shares[name] = computed / (_COUNTED * layers * (steps + 1))
    return shares
