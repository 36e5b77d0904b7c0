"""What films lose that are made to run on several devices at once: cascades of a depth, or windows under a dual scope.

Beside the film as it was published: how far the pictures are from it, how many films are right, what becomes of a longer
one, and how soon a new prompt is followed. Another seed says what distance means that is no likeness at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.benchmark import EngineBenchmark, Quick, Run
from pipelines.presets import Preset
from pipelines.presets.cascaded import cascaded
from pipelines.presets.knobs import apply_knobs

if TYPE_CHECKING:
    from rich.table import Table

    from benchmarks.quality.studio import Studio

PUBLISHED = "as published"
SCOPES = ("6+2", "4+2", "2+2", "4", "2")
NEAR = 4.0
"""Seconds of film whose pictures are compared: later a film that begins otherwise is another one anyway."""


def ways(preset: Preset) -> dict[str, Preset]:
    """The preset, and how its chunks or frames can lie apart."""
    if preset.schedule.plan == "moving-buffer":
        return {PUBLISHED: preset} | {f"scope {each}": apply_knobs(preset, {"dual_scope": each}) for each in SCOPES}
    passes = len([step for step in preset.schedule.denoising_step_list if step]) + 1
    return {PUBLISHED: preset} | {f"cascade {depth}": cascaded(preset, depth) for depth in range(2, passes + 1)}


def measure(
    studio: Studio, *, prompts: int, seconds: float, pairs: int, minutes: float, report: Callable[[str], object]
) -> dict[str, Any]:
    """Every way beside the preset as it is.

    Args:
        studio: model and preset.
        prompts: films that are judged.
        seconds: of each of them, and on either side of a new prompt.
        pairs: of prompts; 0 for no switches.
        minutes: of each of two longer films; 0 for none.
        report: told how far it is.
    """
    from benchmarks.quality import drift, switching
    from benchmarks.quality.adherence import tally_under
    from benchmarks.quality.studio import Progress
    from training.captions import held_out_prompts

    asked = held_out_prompts(prompts, seed=6)
    kinds = {kind: switching.KINDS[kind] for kind in ("recache", "keep")}
    found = ways(studio.engine.preset)
    rows: dict[str, dict[str, Any]] = {}
    for name, preset in found.items():
        report(name)
        row: dict[str, Any] = {"decibels": None if name == PUBLISHED else distance(studio, preset, 1)}
        row["adherence"] = tally_under(studio, preset, asked, seed=1000, seconds=seconds, done=lambda: None)
        if pairs:
            row["switch"] = switching.measure(
                studio, pairs=pairs, before=seconds, after=seconds, kinds=kinds, preset=preset
            )
        if minutes:
            row["drift"] = drift.long_films(studio, preset, 2, minutes, Progress(report, name, 2 * minutes, "minutes"))
        rows[name] = row
    rows["another seed"] = {"decibels": distance(studio, studio.engine.preset, 2)}
    return {"benchmark": "overlap", **studio.identity(), "prompts": prompts, "seconds": seconds, "rows": rows}


def distance(studio: Studio, preset: Preset, seed: int) -> float:
    """Median peak signal to noise of the first seconds, a chunk each, to the published film of seed 1.

    The film's first chunk is left out, which has none before it.
    """
    from benchmarks.quality.drift import moving_prompts
    from benchmarks.quality.reuse import decibels
    from pipelines.types import Controls

    apart: list[float] = []
    for text, _ in moving_prompts(4):
        true, other = studio.stream(1, studio.engine.preset), studio.stream(seed, preset)
        made = 0
        while made < NEAR * true.fps:
            one, two = true.next_chunk(Controls(text)).pixels, other.next_chunk(Controls(text)).pixels
            assert one is not None  # it was asked to decode
            assert two is not None
            if made:
                apart.append(decibels(one, two))
            made += len(one)
    return median(apart)


def table(result: dict[str, Any]) -> Table:
    """Lay the numbers out for a person."""
    from rich.table import Table

    def times(row: dict[str, Any], kind: str) -> str:
        waited = row["switch"][kind]["all"]["median"] if "switch" in row else None
        return "-" if waited is None else f"{waited:.2f} s"

    rows = Table("", "dB", "films right", "switch: recache", "keep", "right at the end of a minute", "change")
    for name, row in result["rows"].items():
        near = "-" if row["decibels"] is None else f"{row['decibels']:.1f}"
        if "adherence" not in row:
            rows.add_row(name, near)
            continue
        right, later = row["adherence"]["all"], row.get("drift")
        late = ("-", "-") if later is None else (f"{later['last']['right']:.0%}", f"{later['change']:.2f}")
        rows.add_row(
            name, near, f"{right['share']:.0%} of {right['of']}", times(row, "recache"), times(row, "keep"), *late
        )
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap(EngineBenchmark):
    """What films lose whose chunks are made at once: cascades, or windows under a dual scope.

    The preset as it is, in the same prompts and seeds, stands beside them.
    """

    prompts: Annotated[int, typer.Option("--prompts", min=1, max=10_000, help="Films judged under each way.")] = 30
    seconds: Annotated[float, typer.Option("--seconds", min=2, max=600, help="Of each film.")] = 5.0
    pairs: Annotated[int, typer.Option("--pairs", min=0, max=1000, help="New prompts under each way.")] = 16
    minutes: Annotated[float, typer.Option("--minutes", min=0, max=600, help="Of two longer films.")] = 1.0
    quick: Quick = False
    table = staticmethod(table)

    @property
    def partial(self) -> bool:
        return self.quick

    def measure(self, run: Run) -> dict[str, Any]:
        """See `measure` above."""
        from benchmarks.quality.studio import Studio

        studio = Studio.open(self.engine, run.report)
        sizes = (2, 0, 0.0) if self.quick else (self.prompts, self.pairs, self.minutes)
        return measure(
            studio, prompts=sizes[0], seconds=self.seconds, pairs=sizes[1], minutes=sizes[2], report=run.report
        )
