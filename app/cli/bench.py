"""`rivulet bench`: run a benchmark of the benchmarks package, print its table, keep its numbers.

Thin on purpose: what is measured and what the numbers mean is written in benchmarks/, beside the code that
measures.
"""

import json
import math
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from app.atomic import write_text
from app.config.readers import choose
from app.errors import UsageMistake
from app.loading.model import EngineRequest, use_threads
from app.record.sidecar import library_versions, machine
from pipelines.presets import PRESETS

BENCHMARKS = (
    *("stream", "memory", "startup", "quality", "ablation", "film", "presets", "cost", "resume", "damage", "fuzz"),
    *("live", "flood"),
)
STREAM_SECONDS, FILM_SECONDS, PRESETS_SECONDS, FLOOD_SECONDS = 20.0, 3600.0, 8.0, 60.0
"""Film to measure, the long film, each film under each preset, and the flood, when `seconds` is None."""

LIVE_MINUTES = 5.0
"""How long the live server is watched, when `minutes` is None."""

STARTS, KILLS, DAMAGES, MUTANTS = 5, 20, 200, 10_000
"""Runs a command, kills of a render, damages of what it left, and mutated files a format, when `repeats` is None
(ablation: 6 films)."""

_CHECKOUT = Path(__file__).resolve().parents[2]


def run(
    name: str,
    *,
    engine: EngineRequest,
    seconds: float | None,
    frames: int,
    decode: bool,
    repeats: int | None,
    prompts: int | None,
    only: str | None,
    every_preset: bool,
    quick: bool,
    random_weights: bool,
    budget: float | None,
    minutes: float | None,
    json_file: Path | None,
    console: Console,
) -> dict[str, Any]:
    """Run one of BENCHMARKS and return its numbers, which also go to `result_file`.

    `every_preset` is for those that compare presets: without it they measure that of `engine` alone.
    """
    # What is nothing to keep in place of a whole table.
    part = (name in ("presets", "cost") and (quick or not every_preset)) or (name in ("quality", "ablation") and quick)
    part = part or (name == "live" and only is not None)
    file = None if part and json_file is None else result_file("random_weights" if random_weights else name, json_file)
    presets = PRESETS if every_preset else {engine.preset.name: engine.preset}
    stamp = {"versions": library_versions(), "machine": machine()}

    def keep(numbers: dict[str, Any]) -> None:
        if file is not None:
            write_text(file, json.dumps(_plain(numbers | stamp), indent=2, ensure_ascii=False) + "\n")

    if name == "stream":
        from benchmarks.speed import stream

        result = stream.measure(engine, seconds=seconds or STREAM_SECONDS)
        table = stream.table(result)
    elif name == "memory":
        from benchmarks.speed import memory

        result = memory.measure(engine, frames=frames, decode=decode, report=console.print)
        table = memory.table(result)
    elif name == "quality":
        from benchmarks.quality import quality

        result = quality.measure(
            engine,
            quality.counts(quick=quick, prompts=prompts, seconds=seconds, minutes=minutes),
            parts=quality.chosen_parts(only),
            quick=quick,
            known=lambda: _known(file),
            keep=keep,
            sheet=_CHECKOUT / "docs" / "quality" / "worst.png" if file is not None and json_file is None else None,
            report=console.print,
        )
        table = quality.table(result)
    elif name == "ablation":
        from benchmarks.quality import ablation

        result = ablation.measure(
            engine,
            ablation.counts(quick=quick, films=repeats, minutes=minutes),
            settings=ablation.QUICK if quick else ablation.SETTINGS,
            known=_known(file),
            keep=keep,
            report=console.print,
        )
        table = ablation.table(result)
    elif name == "film":
        from benchmarks.speed import long_film

        result = long_film.measure(engine, seconds=seconds or FILM_SECONDS, report=console.print)
        table = long_film.table(result)
    elif name == "presets":
        from benchmarks.quality import preset_films as films

        use_threads(engine.threads)
        short, sheet = (3.0, None) if quick else (PRESETS_SECONDS, _CHECKOUT / "docs" / "presets.png")
        result = films.measure(
            engine,
            presets,
            seconds=seconds or short,
            scripts=1 if quick else len(films.SCRIPTS),
            untrained=engine.untrained,
            sheet=sheet if file is not None and json_file is None else None,
            report=console.print,
        )
        table = films.table(result)
    elif name == "cost" and random_weights:
        from benchmarks.speed import random_model as built

        use_threads(engine.threads)
        result = built.measure(
            presets, model=engine.model or "wan-1.3b", device=engine.device, budget=budget, report=console.print
        )
        table = built.table(result)
    elif name == "cost":
        from benchmarks.speed import cost

        result = cost.measure(engine.model or cost.MODEL, presets)
        table = cost.table(result)
    elif name == "resume":
        from benchmarks.robust import resume

        result = resume.measure(kills=repeats or KILLS, threads=engine.threads, report=console.print)
        table = resume.table(result)
    elif name == "damage":
        from benchmarks.robust import damage

        result = damage.measure(
            count=repeats or DAMAGES, model=engine.model, threads=engine.threads, report=console.print
        )
        table = damage.table(result)
    elif name == "fuzz":
        from benchmarks.robust import fuzz

        result = fuzz.measure(count=repeats or MUTANTS)
        table = fuzz.table(result)
    elif name == "live":
        from benchmarks.live import live

        result = live.measure(
            minutes=minutes or LIVE_MINUTES,
            parts=live.PARTS if only is None else [choose(part, live.PARTS, "part") for part in only.split(",")],
            preset=engine.preset.name,
            model=engine.model,
            threads=engine.threads,
            report=console.print,
        )
        table = live.table(result)
    elif name == "flood":
        from benchmarks.robust import flood

        result = flood.measure(
            seconds=seconds or FLOOD_SECONDS,
            preset=engine.preset.name,
            model=engine.model,
            threads=engine.threads,
            report=console.print,
        )
        table = flood.table(result)
    else:
        from benchmarks.speed import startup

        result = startup.measure(repeats=repeats or STARTS)
        table = startup.table(result)
    console.print(table)
    keep(result)
    if file is not None:
        console.print(f"Numbers in {file}.", soft_wrap=True)
    return result | stamp


def result_file(name: str, json_file: Path | None) -> Path | None:
    """Return where the numbers go: the file asked for; in a checkout benchmarks/results; elsewhere nowhere.

    Raises:
        UsageMistake: the file cannot be written; better known before minutes of measuring.
    """
    if json_file is None:
        results = _CHECKOUT / "benchmarks" / "results"
        return results / f"{name}.json" if (_CHECKOUT / ".git").exists() and results.is_dir() else None
    if "\0" in str(json_file):
        raise UsageMistake("The name for the numbers holds a NUL byte. Give an ordinary file name.")
    if json_file.is_dir():
        raise UsageMistake(f"{json_file} is a folder. Give a file name in it, for example {json_file / name}.json.")
    if not json_file.absolute().parent.is_dir():
        raise UsageMistake(f"There is no folder {json_file.parent}. Create it, or give another file.")
    json_file.open("a").close()
    return json_file


def _known(file: Path | None) -> dict[str, Any] | None:
    """What a file of numbers holds already; None for nothing."""
    if file is None or not file.is_file():
        return None
    text = file.read_text(encoding="utf-8").strip()
    try:
        found: object = json.loads(text or "{}")
    except json.JSONDecodeError:
        raise UsageMistake(f"{file} is not JSON, and the numbers are put to what it holds. Name another.") from None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def _plain(value: object) -> object:
    """JSON knows no NaN: what could not be measured is null."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in cast("dict[str, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in cast("list[object]", value)]
    return None if isinstance(value, float) and math.isnan(value) else value
