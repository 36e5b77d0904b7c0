"""The benchmark of presets on the model that ships; preset_films.py renders, judges and times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import DeviceName, ModelName, Threads
from app.loading.model import use_threads
from benchmarks.benchmark import Benchmark, EveryPreset, Quick, Run, engine_request
from benchmarks.speed.cost import chosen_presets

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Presets(Benchmark):
    """The same scripts under every preset: words followed, switches, drift, speed, memory."""

    preset: EveryPreset = None
    model: ModelName = None
    device: DeviceName = "auto"
    threads: Threads = None
    untrained: Annotated[bool, typer.Option("--untrained", help="Also those that the model was not trained for.")] = (
        False
    )
    quick: Quick = False
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=1, max=86400, help="Of each film.", show_default="8; quick: 3")
    ] = None

    @property
    def partial(self) -> bool:
        """One preset is not the table, nor is a glance."""
        return self.quick or self.preset is not None

    def measure(self, run: Run) -> dict[str, Any]:
        """Render, judge and time the scripts, one of them if `quick`."""
        presets = chosen_presets(self.preset)
        engine = engine_request("embedded", self.model, self.device, self.threads)
        from benchmarks.quality import preset_films

        use_threads(self.threads)
        return preset_films.measure(
            engine,
            presets,
            seconds=self.seconds or (3.0 if self.quick else 8.0),
            scripts=1 if self.quick else len(preset_films.SCRIPTS),
            untrained=self.untrained,
            sheet=None if self.quick or run.docs is None else run.docs / "presets.png",
            report=run.report,
        )

    @staticmethod
    def table(result: dict[str, Any]) -> Table:
        """Lay the numbers out for a person."""
        from benchmarks.quality import preset_films

        return preset_films.table(result)
