"""`rivulet bench`: run a benchmark of the benchmarks package, print its table, keep its numbers.

Thin on purpose: what is measured and what the numbers mean is written in benchmarks/, beside the code that
measures.
"""

import json
import math
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from app.errors import UsageMistake
from app.opening import EngineRequest, use_threads
from app.sidecar import library_versions, machine
from pipelines.presets import PRESETS

BENCHMARKS = ("stream", "memory", "startup", "quality", "film", "presets", "cost", "resume", "fuzz", "live")
STREAM_SECONDS, QUALITY_SECONDS, FILM_SECONDS, PRESETS_SECONDS = 20.0, 4.0, 3600.0, 8.0
"""Film to measure, film a prompt to judge, the long film, and each film under each preset, when `seconds` is None."""

LIVE_MINUTES = 5.0
"""How long the live server is watched, when `minutes` is None."""

STARTS, KILLS, MUTANTS = 5, 20, 10_000
"""Runs a command, kills of a render and mutated files a format, when `repeats` is None."""

_CHECKOUT = Path(__file__).resolve().parent.parent


def run(
    name: str,
    *,
    engine: EngineRequest,
    seconds: float | None,
    frames: int,
    decode: bool,
    repeats: int | None,
    prompts: int,
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
    part = name in ("presets", "cost") and (quick or not every_preset)  # nothing to keep in place of a whole table
    file = None if part and json_file is None else result_file("random_weights" if random_weights else name, json_file)
    presets = PRESETS if every_preset else {engine.preset.name: engine.preset}
    if name == "stream":
        from benchmarks import stream

        result = stream.measure(engine, seconds=seconds or STREAM_SECONDS)
        table = stream.table(result)
    elif name == "memory":
        from benchmarks import memory

        result = memory.measure(engine, frames=frames, decode=decode, report=console.print)
        table = memory.table(result)
    elif name == "quality":
        from benchmarks import quality

        use_threads(engine.threads)
        switches = max(1, prompts * 3 // 10)  # a film with a switch is three films' work, one a kind of transition
        result = quality.measure(
            engine,
            prompts=prompts,
            switches=switches,
            seconds=seconds or QUALITY_SECONDS,
            report=console.print,
        )
        table = quality.table(result)
    elif name == "film":
        from benchmarks import long_film

        result = long_film.measure(engine, seconds=seconds or FILM_SECONDS, report=console.print)
        table = long_film.table(result)
    elif name == "presets":
        from benchmarks import presets as films

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
        from benchmarks import random_weights as built

        use_threads(engine.threads)
        result = built.measure(
            presets, model=engine.model or "wan-1.3b", device=engine.device, budget=budget, report=console.print
        )
        table = built.table(result)
    elif name == "cost":
        from benchmarks import cost

        result = cost.measure(engine.model or cost.MODEL, presets)
        table = cost.table(result)
    elif name == "resume":
        from benchmarks import resume

        result = resume.measure(kills=repeats or KILLS, threads=engine.threads, report=console.print)
        table = resume.table(result)
    elif name == "fuzz":
        from benchmarks import fuzz

        result = fuzz.measure(count=repeats or MUTANTS)
        table = fuzz.table(result)
    elif name == "live":
        from benchmarks import live

        result = live.measure(
            minutes=minutes or LIVE_MINUTES,
            preset=engine.preset.name,
            model=engine.model,
            threads=engine.threads,
            report=console.print,
        )
        table = live.table(result)
    else:
        from benchmarks import startup

        result = startup.measure(repeats=repeats or STARTS)
        table = startup.table(result)
    console.print(table)
    result |= {"versions": library_versions(), "machine": machine()}
    if file is not None:
        file.write_text(json.dumps(_plain(result), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        console.print(f"Numbers in {file}.", soft_wrap=True)
    return result


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


def _plain(value: object) -> object:
    """JSON knows no NaN: what could not be measured is null."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in cast("dict[str, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in cast("list[object]", value)]
    return None if isinstance(value, float) and math.isnan(value) else value
