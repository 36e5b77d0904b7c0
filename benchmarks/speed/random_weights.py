"""The benchmark of released architectures with random weights, which random_model.py builds and times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import DeviceName, Threads
from app.config.lengths import parse_length
from app.config.readers import DEVICES, READERS, choose
from app.errors import UsageMistake, shorten
from app.loading.model import use_threads
from benchmarks.benchmark import Benchmark, EveryPreset, Run
from benchmarks.speed.cost import MODEL, Architecture, chosen_presets

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomWeights(Benchmark):
    """How fast a released architecture would run here, without its weights; a CPU gets a small one."""

    preset: EveryPreset = None
    model: Architecture = MODEL
    device: DeviceName = "auto"
    threads: Threads = None
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="TIME", help="At most so long, like 8m.", show_default="no limit")
    ] = None

    @property
    def partial(self) -> bool:
        """One preset is not the table."""
        return self.preset is not None

    def measure(self, run: Run) -> dict[str, Any]:
        """Build and time it under every preset, eager and compiled."""
        presets, budget = chosen_presets(self.preset), None if self.budget is None else _seconds(self.budget)
        model, device = READERS["model"]("--model", self.model), choose(self.device, DEVICES, "device")
        from benchmarks.speed import random_model

        use_threads(self.threads)
        return random_model.measure(presets, model=model, device=device, budget=budget, report=run.report)

    @staticmethod
    def table(result: dict[str, Any]) -> Table:
        """Lay the numbers out for a person."""
        from benchmarks.speed import random_model

        return random_model.table(result)


def _seconds(text: str) -> float:
    length = parse_length(text)
    if length.unit != "s":
        raise UsageMistake(f"--budget is a time, not a part of a film: {shorten(text, 40)}. Write it like 8m or 90s.")
    return length.amount
