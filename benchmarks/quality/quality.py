"""Every figure that the embedded model promises, beside its target, on prompts and seeds that training never saw.

Measured in parts that can be run alone: a part is put in place of what was known of it, and says which weights it is
of. Speed and memory are other benchmarks, run in a process of their own: here the model is loaded already.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.loading.engine_request import EngineRequest
from benchmarks.benchmark import EngineBenchmark, Quick, Run, chosen_parts, parts_flag

if TYPE_CHECKING:
    from rich.table import Table

    from benchmarks.quality.studio import Studio

PARTS = (
    "speed",
    "memory",
    "size",
    "scorer",
    "reconstruction",
    "adherence",
    "switch",
    "steps",
    "plans",
    "video",
    "drift",
)
"""In the order in which they run: what takes longest comes last."""

_CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is looked at; `seconds` is the length of a film, `minutes` that of a long one."""

    prompts: int = 200
    pairs: int = 60
    steps_prompts: int = 40
    clips: int = 120
    seconds: float = 4.0
    after: float = 6.0
    films: int = 4
    minutes: float = 10.0
    stream_seconds: float = 20.0
    latent_frames: int = 10_000


QUICK = Counts(
    prompts=8,
    pairs=2,
    steps_prompts=2,
    clips=24,
    seconds=3.0,
    after=4.0,
    films=1,
    minutes=0.4,
    stream_seconds=4.0,
    latent_frames=120,
)
"""For a look in under three minutes on two quiet cores; its figures say little."""


def counts(*, quick: bool, prompts: int | None, seconds: float | None, minutes: float | None) -> Counts:
    """What is looked at: everything, or a little; with fewer prompts all other counts but the clips shrink alike."""
    chosen = QUICK if quick else Counts()
    few = 1.0 if prompts is None else prompts / chosen.prompts
    return Counts(
        prompts=max(1, round(chosen.prompts * few)),
        pairs=max(1, round(chosen.pairs * few)),
        steps_prompts=max(1, round(chosen.steps_prompts * few)),
        clips=chosen.clips,
        seconds=seconds or chosen.seconds,
        after=max(chosen.after, seconds or 0.0),
        films=max(1, round(chosen.films * few)),
        minutes=minutes or chosen.minutes,
        stream_seconds=chosen.stream_seconds,
        latent_frames=chosen.latent_frames,
    )


def measure(
    engine: EngineRequest,
    amount: Counts,
    *,
    parts: Sequence[str] = PARTS,
    quick: bool = False,
    known: Callable[[], Mapping[str, Any] | None] = lambda: None,
    keep: Callable[[dict[str, Any]], object] = lambda result: None,
    sheet: Path | None = None,
    report: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Measure some parts and put them to what is known of the others.

    Args:
        engine: model and preset.
        amount: how much to look at.
        parts: names of PARTS.
        quick: say of the figures that they are a glance.
        known: reads an earlier result, whose other parts stay; asked after every part, as another run may have come
            to parts of its own meanwhile.
        keep: called with the result after every part, so that what took an hour survives what comes after.
        sheet: where the picture of the worst films goes; None for none.
        report: told how far it is.
    """
    import psutil

    from benchmarks.quality.studio import Studio
    from benchmarks.quality.targets import readable

    studio = Studio.open(engine, report)
    whose = studio.identity()
    for part, found in _parts(known()).items():
        if not readable(part, found) and part not in parts:
            report(f"{part}: what is known was measured in another way and is left out; --only {part} measures it anew")
    have: dict[str, Any] = {}
    wanted = [part for part in PARTS if part in parts]
    for number, part in enumerate(wanted, 1):
        report(f"{part} (part {number} of {len(wanted)})")
        begun, load = perf_counter(), psutil.getloadavg()[0]
        found = _measure(part, studio, amount, sheet)
        taken = (perf_counter() - begun) / 60
        have[part] = {**found, "of": whose, "quick": quick, "minutes_taken": taken, "load_before": load}
        keep(_result(whose, _with_known(have, known())))
    return _result(whose, _with_known(have, known()))


def _parts(known: Mapping[str, Any] | None) -> dict[str, Any]:
    return {part: found for part, found in (known or {}).get("parts", {}).items() if part in PARTS}


def _with_known(have: Mapping[str, Any], known: Mapping[str, Any] | None) -> dict[str, Any]:
    """What this run has measured, and what is known of the other parts."""
    from benchmarks.quality.targets import readable

    return {part: found for part, found in _parts(known).items() if readable(part, found)} | dict(have)


def _measure(part: str, studio: Studio, amount: Counts, sheet: Path | None) -> dict[str, Any]:
    from benchmarks.quality import adherence, drift, noise_plans, painted, steps, switching, video_to_video

    if part == "speed":
        return _alone(studio, "stream", "--seconds", f"{amount.stream_seconds:g}")
    if part == "memory":
        return _alone(studio, "memory", "--frames", str(amount.latent_frames), "--no_decode")
    if part == "size":
        return size(studio)
    if part == "scorer":
        return painted.measure_scorer(studio, count=amount.clips)
    if part == "reconstruction":
        return painted.measure_autoencoder(studio, count=amount.clips)
    if part == "adherence":
        return adherence.measure(studio, prompts=amount.prompts, seconds=amount.seconds, sheet=sheet)
    if part == "switch":
        return switching.measure(studio, pairs=amount.pairs, before=amount.seconds, after=amount.after)
    if part == "steps":
        return steps.measure(studio, prompts=amount.steps_prompts, seconds=amount.seconds)
    if part == "plans":
        return noise_plans.measure(studio, prompts=amount.steps_prompts, seconds=amount.seconds)
    if part == "video":
        return video_to_video.measure(studio, prompts=amount.steps_prompts, seconds=amount.seconds)
    return drift.measure(studio, films=amount.films, minutes=amount.minutes)


def size(studio: Studio) -> dict[str, Any]:
    """Bytes of the weights on the disk, and parameters."""
    parts = studio.loaded.components
    files = [file for source in parts.sources for file in ([source] if source.is_file() else source.rglob("*"))]
    modules = {
        "transformer": parts.transformer,
        "autoencoder": parts.autoencoder,
        "text_encoder": parts.text_encoder,
    }
    return {
        "bytes": sum(file.stat().st_size for file in files if file.is_file()),
        "parameters": {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()},  # type: ignore[attr-defined]
    }


def _alone(studio: Studio, benchmark: str, *flags: str) -> dict[str, Any]:
    """Another benchmark's numbers, from a process that has not loaded a thing before."""
    engine = studio.engine
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "numbers.json"
        command = [sys.executable, "-m", "app", "bench", benchmark, *flags, "--json", str(file)]
        command += ["--preset", engine.preset.name, "--device", studio.loaded.device]
        command += ["--threads", str(studio.loaded.threads)]
        if engine.model is not None:
            command += ["--model", engine.model]
        done = subprocess.run(command, cwd=_CHECKOUT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"rivulet bench {benchmark} failed: {done.stderr.strip()}; run it by itself to see why")
        numbers: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {name: value for name, value in numbers.items() if name not in ("versions", "machine", "curve")}


def _result(whose: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    from benchmarks.quality.targets import figures

    ordered = {part: parts[part] for part in PARTS if part in parts}
    rows = figures(ordered)
    return {
        "benchmark": "quality",
        "model": whose["model"],
        "preset": whose["preset"],
        "weights": whose["weights"],
        "parts": ordered,
        "passed": all(row.passed is not False for row in rows),
    }


def table(result: Mapping[str, Any]) -> Table:
    """Lay the figures out for a person, each beside its target."""
    from rich.table import Table

    from benchmarks.quality.targets import figures

    grid = Table(
        "figure",
        "measured",
        "target",
        "",
        title=f"quality of {result['model']} under {result['preset']}",
        caption="Shares with their 95 % intervals (Wilson). * quick: few films, short ones. ' other weights.",
    )
    grid.columns[1].justify = "right"
    for row in figures(result["parts"]):
        part = result["parts"].get(row.part, {})
        marks = "*" * bool(part.get("quick")) + "'" * (part.get("of", {}).get("weights") != result["weights"])
        said = {True: "[green]reached[/]", False: "[red]missed[/]", None: ""}[row.passed]
        grid.add_row(row.name + marks, row.value, row.target, said)
    return grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality(EngineBenchmark):
    """Every figure that the embedded model promises, beside its target; hours on two cores, kept part by part."""

    only: Annotated[str | None, parts_flag(PARTS)] = None
    quick: Quick = False
    prompts: Annotated[
        int | None, typer.Option("--prompts", min=1, max=10_000, help="Films to judge.", show_default="200")
    ] = None
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=1, max=86400, help="Of each film.", show_default="4")
    ] = None
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0.2, max=1440, help="Of a long film.", show_default="10")
    ] = None
    table = staticmethod(table)

    @property
    def partial(self) -> bool:
        """A glance is none."""
        return self.quick

    def measure(self, run: Run) -> dict[str, Any]:
        """See `measure` above."""
        return measure(
            self.engine,
            counts(quick=self.quick, prompts=self.prompts, seconds=self.seconds, minutes=self.minutes),
            parts=chosen_parts(self.only, PARTS),
            quick=self.quick,
            known=run.known,
            keep=run.keep,
            sheet=None if run.docs is None else run.docs / "quality" / "worst.png",
            report=run.report,
        )
