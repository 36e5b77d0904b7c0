"""How fast a stream is and where the time goes, from the text to the MP4.

fps is said in two ways because the field says it in two ways: of the generation alone, and of everything a
viewer waits for. Both are the frames of a chunk over the median time of a chunk, once the window of the
memory is full.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.loading.engine_request import EngineRequest
from app.loading.model import Opened, open_stream, resident_bytes
from benchmarks.benchmark import EngineBenchmark, Run
from pipelines.types import Controls

if TYPE_CHECKING:
    from rich.table import Table

PROMPTS = ("a red ball bounces over the sea at sunset", "a blue star drifts to the right over snow")
SWITCHES = 5
_TURNS = 3
"""Of a chunk and of its heavy operations alone, one after the other."""
HOPS = ("conditioning", "plan", "denoise", "remember", "decode", "rest", "encode")


def measure(engine: EngineRequest, *, seconds: float) -> dict[str, Any]:
    """Stream `seconds` of film after the warm-up and return the numbers; times in seconds, memory in bytes."""
    from app.media.mp4 import FilmWriter, viewing_scale

    start = perf_counter()
    opened = open_stream(engine, 0)
    load = perf_counter() - start

    rows: list[dict[str, float]] = []
    switched: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        start = perf_counter()
        controls = Controls(PROMPTS[0])
        chunk = opened.stream.next_chunk(controls)
        assert chunk.pixels is not None
        height, width = chunk.pixels.shape[1:3]
        scale = viewing_scale(height, width)
        film = FilmWriter(Path(folder) / "bench.mp4", height=height, width=width, fps=Fraction(opened.fps), scale=scale)
        film.write(chunk.pixels)
        first = perf_counter() - start

        frames = 0
        warm_up = 2 + engine.preset.cache.capacity // engine.preset.chunk
        quota = max(1, round(seconds * opened.fps))
        every = max(4, quota // (len(chunk.pixels) * SWITCHES))
        while frames < quota:
            turn = chunk.index + 1 - warm_up
            switch = turn > 0 and turn % every == 0
            if switch:
                controls = Controls(PROMPTS[turn // every % len(PROMPTS)])
            before = perf_counter()
            chunk = opened.stream.next_chunk(controls)
            made = perf_counter()
            assert chunk.pixels is not None
            film.write(chunk.pixels)
            done = perf_counter()
            if turn < 0:
                continue
            frames += len(chunk.pixels)
            if switch:
                switched.append(done - before)
                continue
            hops = {hop: chunk.seconds.get(hop, 0.0) for hop in HOPS}
            hops["rest"] = made - before - sum(hops.values())  # hash and drift
            hops["encode"] = done - made
            engine_time = made - before - hops["decode"]
            rows.append(
                hops
                | {
                    "model": chunk.seconds["model"],
                    "generate": engine_time,
                    "overhead": (engine_time - chunk.seconds["model"]) / (done - before),
                    "chunk": done - before,
                    "frames": float(len(chunk.pixels)),
                }
            )
        film.close()
        limit, ratio = _near_the_limit(opened, controls)

    middle = {name: median(row[name] for row in rows) for name in rows[0]}
    return {
        "benchmark": "stream",
        "preset": engine.preset.name,
        "model": opened.model,
        "device": opened.device,
        "threads": opened.threads,
        "height": height,
        "width": width,
        "film_fps": opened.fps,
        "encoded_at": [width * scale, height * scale],
        "chunks_measured": len(rows),
        "chunks_warm_up": warm_up,
        "fps_end_to_end": middle["frames"] / middle["chunk"],
        "fps_generate": middle["frames"] / middle["generate"],
        "load_s": load,
        "first_frame_s": first,
        "chunk_s": middle["chunk"],
        "chunk_with_switch_s": median(switched) if switched else None,
        "hops_s": {hop: middle[hop] for hop in HOPS} | {"model": middle["model"]},
        "overhead": middle["overhead"],
        "limit_s": limit,
        "ratio_to_limit": ratio,
        "rss_bytes": resident_bytes(),
        "peak_rss_bytes": peak_resident_bytes(),
    }


def _near_the_limit(opened: Opened, controls: Controls) -> tuple[float | None, float | None]:
    """What a chunk's own products, convolutions and attention take, and how many times that a chunk takes.

    In processor time, which other work on the machine changes little; on a graphics card, whose time that is not, None.
    """
    if opened.device != "cpu":
        return None, None
    from benchmarks.speed.limit import Recorded  # torch takes seconds

    with Recorded() as recorded:
        opened.stream.next_chunk(controls)
    chunks: list[float] = []
    limits: list[float] = []
    for _ in range(_TURNS):
        begun = process_time()
        opened.stream.next_chunk(controls)
        chunks.append(process_time() - begun)
        limits.append(recorded.seconds())
    return min(limits), min(chunks) / min(limits)


def table(result: dict[str, Any]) -> Table:
    """Lay the numbers out for a person."""
    from rich.table import Table

    chunk = result["chunk_s"]
    title = f"{result['preset']}, {result['width']}x{result['height']}, {result['device']}, {result['threads']} threads"
    rows = Table("what", "value", "means", title=title)
    rows.columns[1].justify = "right"
    width, height = result["encoded_at"]
    rows.add_row(
        "end to end",
        f"{result['fps_end_to_end']:.1f} fps",
        f"text to MP4 ({width}x{height}): frames of a chunk / median time of a chunk",
    )
    rows.add_row("generation", f"{result['fps_generate']:.1f} fps", "the same without decoding and encoding")
    rows.add_row("real time", f"{result['film_fps']:g} fps", "what the film plays at")
    rows.add_row("load", f"{result['load_s']:.2f} s", "imports, weights, buffers")
    rows.add_row("first frame", f"{result['first_frame_s']:.2f} s", "after the load, in the file")
    rows.add_row("chunk", f"{chunk * 1e3:.1f} ms", f"median of {result['chunks_measured']} after warm-up")
    if result["chunk_with_switch_s"] is not None:
        rows.add_row("chunk with a new prompt", f"{result['chunk_with_switch_s'] * 1e3:.1f} ms", "re-cache included")
    for hop in HOPS:
        spent = result["hops_s"][hop]
        means = {"rest": "hash, drift", "remember": "the pass that writes the memory"}.get(hop, "")
        rows.add_row(f"  {hop}", f"{spent * 1e3:.1f} ms", f"{spent / chunk:.0%}  {means}")
    rows.add_row(
        "overhead", f"{result['overhead']:.1%}", "of a chunk is the engine outside transformer, decoder and encoder"
    )
    if result["limit_s"] is not None:
        limit, ratio = result["limit_s"], result["ratio_to_limit"]
        rows.add_row("engine", f"{limit * ratio * 1e3:.1f} ms", "of processor time, a chunk without encoding")
        rows.add_row("limit", f"{limit * 1e3:.1f} ms", "its matrix products, convolutions and attention alone")
        rows.add_row("ratio", f"{ratio:.2f}x", "how far the engine is from that")
    rows.add_row("memory", f"{result['rss_bytes'] / 2**20:.0f} MiB", "resident, at the end")
    rows.add_row("peak memory", f"{result['peak_rss_bytes'] / 2**20:.0f} MiB", "resident, of the whole run")
    return rows


def peak_resident_bytes() -> int:
    """Most memory this process ever had resident; the system counts it in KiB, on macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux brings the mark up to date only now and then: what is resident this moment may lie above it.
    return max(resident_bytes(), peak if sys.platform == "darwin" else peak * 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpeed(EngineBenchmark):
    """How fast a stream is and where the time goes, from the text to the MP4."""

    seconds: Annotated[float, typer.Option("--seconds", min=1, max=86400, help="Of film to measure.")] = 20.0
    table = staticmethod(table)

    def measure(self, run: Run) -> dict[str, Any]:
        """See `measure` above."""
        return measure(self.engine, seconds=self.seconds)
