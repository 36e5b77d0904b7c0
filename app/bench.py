"""`rivulet bench`: run a benchmark of the benchmarks package, print its table, keep its numbers.

Thin on purpose: what is measured and what the numbers mean is written in benchmarks/, beside the code that
measures.
"""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from app.errors import UsageMistake
from app.opening import EngineRequest, use_threads
from app.sidecar import library_versions, machine

BENCHMARKS = ("stream", "memory", "startup", "quality", "resume", "fuzz")
STREAM_SECONDS, QUALITY_SECONDS = 20.0, 4.0
"""Film to measure, and film a prompt to judge, when `seconds` is None."""

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
    json_file: Path | None,
    console: Console,
) -> dict[str, Any]:
    """Run one of BENCHMARKS and return its numbers, which also go to `result_file`."""
    file = result_file(name, json_file)
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
    elif name == "resume":
        from benchmarks import resume

        result = resume.measure(kills=repeats or KILLS, threads=engine.threads, report=console.print)
        table = resume.table(result)
    elif name == "fuzz":
        from benchmarks import fuzz

        result = fuzz.measure(count=repeats or MUTANTS)
        table = fuzz.table(result)
    else:
        from benchmarks import startup

        result = startup.measure(repeats=repeats or STARTS)
        table = startup.table(result)
    console.print(table)
    result |= {"versions": library_versions(), "machine": machine()}
    if file is not None:
        file.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
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
