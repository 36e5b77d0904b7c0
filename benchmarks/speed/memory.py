"""Whether a stream that runs for ever fits into memory for ever.

Resident memory is compared at two late moments, so that buffers filling up at the start do not count as
growth; a new prompt every 250 latent frames keeps the switch history and the text caches busy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.loading.engine_request import EngineRequest
from app.loading.model import open_stream, resident_bytes
from benchmarks.benchmark import EngineBenchmark, Run
from benchmarks.speed.stream import PROMPTS
from pipelines.types import Controls

if TYPE_CHECKING:
    from rich.table import Table

BASELINE = 500
SAMPLES = 15
"""Readings in a median; single readings jump by a page pool."""


def measure(
    engine: EngineRequest, *, frames: int, decode: bool, report: Callable[[str], object] = print
) -> dict[str, Any]:
    """Stream `frames` latent frames and compare resident memory at frame 500 (or half way) and at the end."""
    opened = open_stream(engine, 0)
    baseline = min(BASELINE, frames // 2)
    readings: list[tuple[int, int]] = []
    start = told = perf_counter()
    latent = 0
    while latent < frames:
        prompt = PROMPTS[latent // 250 % len(PROMPTS)]
        chunk = opened.stream.next_chunk(Controls(f"{prompt}"), decode=decode)
        latent = chunk.latent.stop
        readings.append((latent, resident_bytes()))
        if perf_counter() - told > 10:
            told = perf_counter()
            report(f"latent frame {latent} of {frames}, {readings[-1][1] / 2**20:.1f} MiB")
    early = median([rss for at, rss in readings if at >= baseline][:SAMPLES])
    late = median([rss for _, rss in readings[-SAMPLES:]])
    return {
        "benchmark": "memory",
        "preset": engine.preset.name,
        "model": opened.model,
        "device": opened.device,
        "threads": opened.threads,
        "decode": decode,
        "latent_frames": latent,
        "baseline_frame": baseline,
        "rss_baseline_bytes": early,
        "rss_end_bytes": late,
        "growth": late / early - 1,
        "seconds": perf_counter() - start,
        "curve": readings[:: max(1, len(readings) // 100)],
    }


def table(result: dict[str, Any]) -> Table:
    """Lay the numbers out for a person."""
    from rich.table import Table

    how = "with decoding" if result["decode"] else "without decoding (--no_decode)"
    rows = Table("latent frame", "resident", title=f"{result['preset']}, {how}, {result['seconds']:.0f} s")
    rows.columns[1].justify = "right"
    rows.add_row(str(result["baseline_frame"]), f"{result['rss_baseline_bytes'] / 2**20:.2f} MiB")
    rows.add_row(str(result["latent_frames"]), f"{result['rss_end_bytes'] / 2**20:.2f} MiB")
    rows.add_row("growth", f"{result['growth']:+.2%}")
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory(EngineBenchmark):
    """Whether a stream that runs for ever stays as large as it was."""

    frames: Annotated[int, typer.Option("--frames", min=20, max=10**7, help="Latent frames to go to.")] = 10_000
    no_decode: Annotated[bool, typer.Option("--no_decode", help="Leave out decoding (faster).")] = False
    table = staticmethod(table)

    def measure(self, run: Run) -> dict[str, Any]:
        """See `measure` above."""
        return measure(self.engine, frames=self.frames, decode=not self.no_decode, report=run.report)
