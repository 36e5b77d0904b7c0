"""ProfilingDiT: layers that look at what stays as it is are not run on every pass; those that look at what moves are.

`rivulet profile` tells the two apart by where their attention lies. Of every run of background layers, what it added
in the last whole pass is added again at its end (ProfilingDiT, Ma et al. 2025, arXiv 2504.03140). Whole are the first
passes of a chunk and then every `interval`-th; there the first six of fifty and every sixth, with four passes every
other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from cache.features.facts import Facts
from cache.features.reuse import FeatureCache, in_order, kept
from cache.layer_plan import LayerPlan, Left, Tap
from cache.types import Row

_MANY = 20
"""Passes from which on the schedule is that of the original."""


@dataclass(frozen=True, slots=True)
class Profiled(FeatureCache):
    """Attributes:
    background: numbers of the layers that are not run on every pass.
    warm_up, interval: so many first passes are whole, and then every so manieth; 0: by how many there are.
    """

    background: tuple[int, ...] = ()
    warm_up: int = 0
    interval: int = 0

    @classmethod
    def of(cls, levels: tuple[float, ...], chunk: int, facts: Facts | None) -> Self:
        if facts is None or not facts.background:
            why = "this model has none" if facts is None else "that of this model names no background layers"
            raise ValueError(
                f"the feature cache profiled goes by a profile, and {why}: run rivulet profile, or choose first-block"
            )
        return cls(levels, chunk, facts.background)

    def buffers(self, layers: int) -> int:
        return len(self.runs)

    @property
    def halves(self) -> bool:
        return True

    @property
    def runs(self) -> tuple[range, ...]:
        """Runs of background layers that follow each other."""
        found: list[range] = []
        for layer in sorted(self.background):
            if found and found[-1].stop == layer:
                found[-1] = range(found[-1].start, layer + 1)
            else:
                found.append(range(layer, layer + 1))
        return tuple(found)

    def denoise(self, row: Row, step: int, left: Left) -> LayerPlan:
        warm_up = self.warm_up or (6 if len(self.levels) >= _MANY else 1)
        interval = self.interval or (6 if len(self.levels) >= _MANY else 2)
        runs = self.runs
        whole = step < warm_up or (step - warm_up) % interval == interval - 1
        if whole or any(left.age(number, row.frames) is None for number in range(len(runs))):
            return LayerPlan(taps=in_order(*(tap for number, run in enumerate(runs) for tap in kept(run, number))))
        return LayerPlan(runs, tuple(Tap(run.stop, number, "add") for number, run in enumerate(runs)))
