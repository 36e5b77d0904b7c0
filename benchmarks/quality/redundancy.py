"""A map of redundancy: how much of what layers add is there already, from a chunk before or another pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from benchmarks.quality.drift import moving_prompts
from benchmarks.quality.studio import Studio
from cache.features.reuse import in_order, kept
from cache.layer_plan import EVERY, LayerPlan, LayerPolicy, Left
from cache.types import Pass, Row, Slots
from pipelines.presets import Preset
from pipelines.types import Controls

APART = (1, 2, 3)
"""Chunks between two that the map compares."""


@dataclass(frozen=True, slots=True)
class Keeping(LayerPolicy):
    """Leaves what every layer adds, at every level and in the clean pass, and changes nothing."""

    levels: tuple[float, ...]

    def buffers(self, layers: int) -> int:
        return layers * (len(self.levels) + 1)

    @property
    def chunks(self) -> int:
        return max(APART) + 1

    def plan(self, work: Pass, row: Row, slots: Slots, left: Left) -> LayerPlan:
        if work.kind == "clean":
            number = len(self.levels)
        elif work.kind == "denoise" and row.levels[0] in self.levels:
            number = self.levels.index(row.levels[0])
        else:
            return EVERY
        taps = (kept(range(layer, layer + 1), number * left.layers + layer) for layer in range(left.layers))
        return LayerPlan(taps=in_order(*(tap for pair in taps for tap in pair)))


def redundancy(studio: Studio, base: Preset, *, chunks: int) -> dict[str, Any]:
    """How much what each layer adds changes, of its size, [levels][layers]: by chunks apart, and of the clean pass."""
    stream = studio.stream(1, base)
    levels = stream.engine.policies.plan.levels
    engine = replace(stream.engine, policies=replace(stream.engine.policies, layers=Keeping(levels)))
    height, width = stream.state.latents.ring.shape[-2:]
    stream = type(stream)(engine, height=height, width=width, seed=1)
    layers, size = stream.state.kv[0].shape.layers, base.chunk
    controls = Controls(moving_prompts(1)[0][0])
    found: dict[int, list[list[list[float]]]] = {apart: [] for apart in APART}
    clean: list[list[float]] = []
    held = stream.state.residuals[0]

    def change(buffer: int, now: range, other: int, then: range) -> float:
        one, two = held.get(buffer, now), held.get(other, then)
        return float((one - two).abs().mean() / two.abs().mean())

    for number in range(chunks + max(APART)):
        frames = stream.next_chunk(controls, decode=False).latent
        now = range(frames.start, frames.stop)
        if number < max(APART):
            continue
        for apart in APART:
            then = range(now.start - apart * size, now.stop - apart * size)
            found[apart].append(
                [
                    [change(i * layers + layer, now, i * layers + layer, then) for layer in range(layers)]
                    for i in range(len(levels))
                ]
            )
        last, own = (len(levels) - 1) * layers, len(levels) * layers
        clean.append([change(last + layer, now, own + layer, now) for layer in range(layers - 1)])
    return {
        "levels": list(levels),
        "layers": layers,
        "apart": {
            str(apart): [
                [median(each[i][layer] for each in rows) for layer in range(layers)] for i in range(len(levels))
            ]
            for apart, rows in found.items()
        },
        "clean": [median(each[layer] for each in clean) for layer in range(layers - 1)],
    }
