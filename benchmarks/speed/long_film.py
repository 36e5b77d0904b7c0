"""Whether a film of an hour costs what an hour should: memory and speed as at the start, the disk as predicted.

It is made as `rivulet render` makes it, journal, segments and final copy included. Early and late are compared in
medians over a tenth of the film each, and speed in processor time too, because another program slows only the clock.
"""

from __future__ import annotations

import os
import tempfile
import threading
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from app.config.lengths import Length
from app.errors import EXIT_OK, RenderFailure
from app.loading.engine_request import EngineRequest
from app.loading.model import FilmStream, Opened, open_stream
from app.script.script import Script, ScriptShot
from benchmarks.benchmark import EngineBenchmark, Run
from pipelines.types import Chunk, Controls, Transition

if TYPE_CHECKING:
    from rich.table import Table

SHOT_SECONDS = 20
TRANSITIONS = (Transition("recache"), Transition("soft", 4), Transition("cut"), Transition("keep"))
SEED = 7
TENTH = 10
"""The first tenth of the film is warm-up, the second is compared with the last."""
MEMORY_LIMIT, SPEED_LIMIT, DISK_LIMIT = 0.01, 0.03, 0.10
"""Growth that counts as flat, and how far a prediction may be off."""


def measure(
    engine: EngineRequest, *, seconds: float, report: Callable[[str], object] = lambda line: None
) -> dict[str, Any]:
    """Predict and render a film of `seconds`, a prompt every 20 s, and compare its beginning with its end.

    Returns:
        "memory" (resident bytes), "chunk_cpu_s" and "chunk_wall_s", each with "early", "late" and "growth";
        "predicted" and "was" of seconds, disk_bytes (at most), film_bytes (in the end) and memory_bytes (at most);
        "curve", 100 moments as [chunk, resident bytes, processor seconds a chunk]; "passed".
    """
    from rich.console import Console

    from app.record import sidecar
    from app.record.request import RenderRequest
    from app.render.estimate import estimate_film
    from app.render.render import render

    with tempfile.TemporaryDirectory() as folder:
        request = RenderRequest(
            script=_script(seconds),
            output=Path(folder) / "film.mp4",
            engine=engine,
            length=Length(seconds, "s"),
            seed=SEED,
        )
        begun = perf_counter()
        timeline, predicted = estimate_film(request)
        estimated = perf_counter() - begun
        report(f"{timeline.chunks} chunks, predicted {predicted.seconds / 60:.1f} min")
        clock = _Clock(report, timeline.chunks)
        with _DiskWatch(Path(folder)) as disk, Path(os.devnull).open("w") as nobody:
            code = render(request, console=Console(file=nobody), opener=clock.open)
        if code != EXIT_OK:
            raise RenderFailure(f"The film ended early, with {code}. Run the benchmark again.")
        record = sidecar.read(sidecar.sidecar_path(request.output))
        left = _bytes_below(Path(folder))
    memory = [float(chunk.memory) for chunk in record.chunks]
    rows = {"memory": memory, "chunk_cpu_s": _steps(clock.cpu), "chunk_wall_s": _steps(clock.wall)}
    was = {
        "seconds": record.timing.render,
        "disk_bytes": disk.most,
        "film_bytes": left,
        "memory_bytes": round(max(memory)),
    }
    result: dict[str, Any] = {
        "benchmark": "film",
        "preset": engine.preset.name,
        "model": record.model.name,
        "device": record.config.device,
        "threads": record.config.threads,
        "film_seconds": record.film.seconds,
        "frames": record.film.frames,
        "chunks": len(record.chunks),
        "shots": len(record.shots),
        "film_sha256": record.film.sha256,
        "estimate_seconds": estimated,
        "fps": record.timing.fps,
        "predicted": {name: getattr(predicted, name) for name in was},
        "was": was,
        **{name: _compare(values) for name, values in rows.items()},
        "curve": _curve(memory, rows["chunk_cpu_s"]),
    }
    off = [abs(result["predicted"][name] / was[name] - 1) for name in ("disk_bytes", "film_bytes")]
    result["passed"] = (
        result["memory"]["growth"] <= MEMORY_LIMIT
        and result["chunk_cpu_s"]["growth"] <= SPEED_LIMIT
        and max(off) <= DISK_LIMIT
    )
    return result


def table(result: dict[str, Any]) -> Table:
    """Lay the numbers out for a person."""
    from rich.table import Table

    title = f"{result['preset']}, {result['film_seconds'] / 60:.1f} minutes of film, {result['shots']} shots"
    rows = Table("what", "early", "late", "growth", title=f"{title}, {result['fps']:.1f} fps")
    for name, unit, scale in (
        ("memory", "MiB", 2**20),
        ("chunk_cpu_s", "ms of processor time a chunk", 1e-3),
        ("chunk_wall_s", "ms a chunk", 1e-3),
    ):
        numbers = result[name]
        early, late = (f"{numbers[when] / scale:.1f}" for when in ("early", "late"))
        rows.add_row(f"{name.partition('_')[0]}, {unit}", early, late, f"{numbers['growth']:+.2%}")
    rows.add_section()
    rows.add_row("", "predicted", "was", "off")
    for name, told, unit, scale in (
        ("disk_bytes", "disk at most", "MB", 1e6),
        ("film_bytes", "disk in the end", "MB", 1e6),
        ("seconds", "render", "min", 60),
        ("memory_bytes", "memory at most", "MB", 1e6),
    ):
        predicted, was = result["predicted"][name], result["was"][name]
        off = f"{predicted / was - 1:+.1%}"
        rows.add_row(f"{told}, {unit}", f"{predicted / scale:.1f}", f"{was / scale:.1f}", off)
    for column in rows.columns[1:]:
        column.justify = "right"
    return rows


class _Clock:
    """Notes when every chunk begins; between two of them lies all that a chunk takes, its share of the disk too."""

    def __init__(self, report: Callable[[str], object], chunks: int) -> None:
        self.wall, self.cpu = array("d"), array("d")
        self._report, self._chunks, self._told = report, chunks, perf_counter()

    def open(self, request: EngineRequest, seed: int) -> Opened:
        """Open the stream with a clock before it."""
        opened = open_stream(request, seed)
        return replace(opened, stream=_Clocked(self, opened.stream))

    def tick(self) -> None:
        """A chunk begins."""
        self.wall.append(perf_counter())
        self.cpu.append(process_time())
        if self.wall[-1] - self._told > 60:
            self._told = self.wall[-1]
            self._report(f"chunk {len(self.wall)} of {self._chunks}")


class _Clocked:
    """A stream that a clock listens to."""

    def __init__(self, clock: _Clock, stream: FilmStream) -> None:
        self._clock, self._stream = clock, stream

    def next_chunk(self, controls: Controls, *, decode: bool = True) -> Chunk:
        self._clock.tick()
        return self._stream.next_chunk(controls, decode=decode)


class _DiskWatch:
    """Looks several times a second how much lies below a folder; `most` is the most it saw."""

    def __init__(self, folder: Path) -> None:
        self.most = 0
        self._folder, self._done = folder, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.05):
            self.most = max(self.most, _bytes_below(self._folder))


def _script(seconds: float) -> Script:
    from training.captions import held_out_prompts

    prompts = held_out_prompts(max(1, round(seconds / SHOT_SECONDS)), seed=SEED)
    return Script(
        tuple(
            ScriptShot(Length(index * SHOT_SECONDS, "s"), text, TRANSITIONS[index % len(TRANSITIONS)])
            for index, (text, _) in enumerate(prompts)
        )
    )


def _bytes_below(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):  # which passes over folders that have just gone
        for file in files:
            with suppress(FileNotFoundError):  # the render has just renamed or pruned it
                total += Path(parent, file).stat().st_size
    return total


def _steps(moments: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(moments)]


def _compare(values: Sequence[float]) -> dict[str, float]:
    size = max(1, len(values) // TENTH)
    early, late = median(values[size : 2 * size] or values), median(values[-size:])
    return {"early": early, "late": late, "growth": late / early - 1}


def _curve(memory: Sequence[float], cpu: Sequence[float]) -> list[list[float]]:
    size = max(1, len(cpu) // 100)
    return [[chunk, memory[chunk], round(median(cpu[chunk : chunk + size]), 6)] for chunk in range(0, len(cpu), size)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LongFilm(EngineBenchmark):
    """Whether an hour of film costs what an hour should: memory, speed, and the disk as predicted."""

    seconds: Annotated[float, typer.Option("--seconds", min=1, max=86400, help="Of film.")] = 3600.0
    table = staticmethod(table)

    def measure(self, run: Run) -> dict[str, Any]:
        """See `measure` above."""
        return measure(self.engine, seconds=self.seconds, report=run.report)
