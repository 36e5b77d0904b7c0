"""A benchmark: what it measures, the flags it takes, and how its numbers are shown.

Fields are flags: the annotation says type, name, bounds and help (typer's words), the default what is measured without
it. The first line of the docstring is what `rivulet bench` lists.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import DeviceName, ModelName, Threads
from app.config.readers import DEVICES, choose
from app.config.table import READERS
from app.errors import UsageMistake
from app.loading.engine_request import EngineRequest
from pipelines.presets import PRESETS

if TYPE_CHECKING:
    from rich.table import Table

PresetName = Annotated[str, typer.Option("--preset", help="Streaming system; `rivulet presets` lists them.")]
EveryPreset = Annotated[
    str | None, typer.Option("--preset", help="This streaming system alone.", show_default="every one")
]
Quick = Annotated[bool, typer.Option("--quick", help="Few short films, nothing kept.")]


def _nothing(numbers: dict[str, Any]) -> None:
    """Keep nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a benchmark is given while it runs.

    Attributes:
        report: told in a line how far it is.
        keep: writes numbers down, so that what took an hour survives what comes after.
        known: reads what was written down before; None for nothing.
        docs: the folder of the pages, where pictures of the numbers that the repository keeps go; None for others.
    """

    report: Callable[[str], object] = print
    keep: Callable[[dict[str, Any]], object] = _nothing
    known: Callable[[], dict[str, Any] | None] = lambda: None
    docs: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark(ABC):
    """Something to measure."""

    @property
    def partial(self) -> bool:
        """Whether this is a glance or a part of the table, which must not take the place of a whole one."""
        return False

    @abstractmethod
    def measure(self, run: Run) -> dict[str, Any]:
        """Measure, and return the numbers; "passed", where something is judged, becomes the exit code.

        Raises:
            UsageMistake: what was asked for cannot be measured; told before anything is.
        """

    @staticmethod
    @abstractmethod
    def table(result: dict[str, Any]) -> Table:
        """Lay the numbers out for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBenchmark(Benchmark):
    """Of an engine in this process."""

    preset: PresetName = "embedded"
    model: ModelName = None
    device: DeviceName = "auto"
    threads: Threads = None
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Allow a preset that the model was not trained for.")
    ] = False

    @property
    def engine(self) -> EngineRequest:
        """The engine that is asked for."""
        return engine_request(self.preset, self.model, self.device, self.threads, untrained=self.untrained)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerBenchmark(Benchmark):
    """Of `rivulet web` in a process of its own."""

    preset: PresetName = "embedded"
    model: ModelName = None
    threads: Threads = None

    @property
    def words(self) -> list[str]:
        """The server's flags."""
        asked = engine_request(self.preset, self.model, threads=self.threads)
        words = ["--preset", asked.preset.name, *(["--model", asked.model] if asked.model else [])]
        return words + ([] if self.threads is None else ["--threads", str(self.threads)])


def engine_request(
    preset: str, model: str | None, device: str = "auto", threads: int | None = None, *, untrained: bool = False
) -> EngineRequest:
    """The engine that flags ask for.

    Raises:
        UsageMistake: there is no such preset, model or device.
    """
    return EngineRequest(
        preset=PRESETS[choose(preset, list(PRESETS), "preset")],
        model=None if model is None else READERS["model"]("--model", model),
        device=choose(device, DEVICES, "device"),
        threads=threads,
        untrained=untrained,
    )


def parts_flag(parts: Sequence[str]) -> Any:
    """The flag that takes some of `parts`; `chosen_parts` reads it."""
    return typer.Option("--only", metavar="PART,...", help=f"Of {', '.join(parts)}.", show_default="all")


def chosen_parts(only: str | None, parts: Sequence[str]) -> tuple[str, ...]:
    """The parts that `--only` names, in their own order; all without it.

    Raises:
        UsageMistake: there is no such part, or none is named.
    """
    if only is None:
        return tuple(parts)
    names = [choose(name.strip(), parts, "part") for name in only.split(",") if name.strip()]
    if not names:
        raise UsageMistake(f"There is nothing to measure in --only. Choose from {', '.join(parts)}.")
    return tuple(part for part in parts if part in names)
