"""What using features again saves and what it costs, beside the honest rival: fewer steps in the same time.

Before anything is promised, a map of redundancy: by how much what a layer adds differs from what it added a chunk ago
at the same level, and the pass that writes the memory from the last denoising pass. Then every way is compared with the
exact film under teacher forcing: every other chunk it is put back to where the exact film stands, so that errors are
its own and no drift. Work is counted in layers, and time is the processor's, way and exact film taking turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from time import process_time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.benchmark import EngineBenchmark, Quick, Run
from benchmarks.quality.layer_count import Counting, counted
from cache import FEATURE_CACHES
from cache.features.clean_pass import CleanPass
from cache.features.cross_chunk import CrossChunk
from cache.features.planned import Planned
from cache.kv_shape import KV_BITS
from pipelines.presets import Preset
from pipelines.presets.knobs import apply_knobs, knob_values

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from benchmarks.quality.studio import Studio
    from pipelines.streaming import Stream
    from pipelines.types import Chunk

    Make = Callable[[str, Stream, int], NDArray[np.uint8]]

EXACT = "exact"
FEWER = (0.75, 0.5)
"""Shares of the steps that the rivals take; of many steps three eighths as well."""
AGES = (1, 3)
"""Chunks that a contribution is used for at most, in films of video."""
GUIDANCE = 3.0
"""Of films of many steps."""
STRENGTH = 0.6
"""Share of noise in films of video."""
Row = dict[str, Any]
_MANY = 20
_SAME = 1e-6
"""Mean squared error of pictures that are the same."""


def ways(base: Preset) -> dict[str, Preset]:
    """Fewer steps, every feature cache, and memories of fewer bits."""
    steps = knob_values(base)["num_inference_steps"]
    assert isinstance(steps, int)
    shares = (*FEWER, 0.375) if steps >= _MANY else FEWER
    counts = sorted({max(1, round(steps * part)) for part in shares} - {steps}, reverse=True)
    fewer = {f"{count} steps": apply_knobs(base, {"num_inference_steps": count}) for count in counts}
    caches = {name: apply_knobs(base, {"feature_cache": name}) for name in FEATURE_CACHES}
    return fewer | caches | {f"{name} memory": apply_knobs(base, {"kv_cache_dtype": name}) for name in KV_BITS}


def measure(
    studio: Studio,
    *,
    chunks: int,
    prompts: int,
    seconds: float,
    report: Callable[[str], object],
    steps: int | None = None,
    many: int = 0,
) -> dict[str, Any]:
    """Every way beside the exact film.

    Args:
        studio: model and preset.
        chunks: compared under teacher forcing.
        prompts: films that are judged under each way; 0 for none.
        seconds: of each of them.
        report: told how far it is.
        steps: of the exact film; the preset's if None.
        many: measured as well with so many guided steps; 0 for not.
    """
    base = studio.engine.preset if steps is None else apply_knobs(studio.engine.preset, {"num_inference_steps": steps})
    from benchmarks.quality.redundancy import redundancy
    from models.taehv import AutoencoderTAEHV

    report("map of redundancy")
    result = {"benchmark": "cache", **studio.identity(), "steps": knob_values(base)["num_inference_steps"]}
    result["map"] = redundancy(studio, base, chunks=max(2, chunks // 4))
    result["counted"] = {str(count): counted(30, count) for count in (4, 50)}
    report("teacher forcing")
    rows = from_words(studio, base, chunks)
    if isinstance(studio.loaded.components.autoencoder, AutoencoderTAEHV):  # the painted world's
        for moves in (False, True):
            report(f"video, {'moving' if moves else 'still'}")
            result["moving" if moves else "still"] = of_video(studio, base, max(8, chunks // 2), moves=moves)
    if many:
        report(f"{many} guided steps")
        knobs = {"num_inference_steps": many, "guidance_scale": GUIDANCE}
        result["many"] = from_words(studio, apply_knobs(base, knobs), max(4, chunks // 3))
        result["many_steps"] = many
    for name, row in rows.items() if prompts else ():
        report(f"films: {name}")
        row["adherence"] = judged(studio, base if name == EXACT else ways(base)[name], prompts, seconds)
    return {**result, "chunks": chunks, "prompts": prompts, "seconds": seconds, "rows": rows}


def judged(studio: Studio, preset: Preset, prompts: int, seconds: float) -> dict[str, Any]:
    """Share of films that are right, with its interval."""
    from benchmarks.quality.adherence import tally_under
    from training.captions import held_out_prompts

    asked = held_out_prompts(prompts, seed=6)
    return tally_under(studio, preset, asked, seed=1000, seconds=seconds, done=lambda: None)["all"]


def forced(exact: Stream, streams: Mapping[str, Stream], chunks: int, warm_up: int, make: Make) -> dict[str, Row]:
    """Work, time and distance of every way, chunk by chunk beside the exact film.

    Args:
        exact: about to begin.
        streams: the ways, about to begin.
        chunks: compared.
        warm_up: chunks before that.
        make: gives a stream's pictures of a chunk.
    """
    counters = {name: _counted(stream) for name, stream in {EXACT: exact, **streams}.items()}
    errors: dict[str, list[float]] = {name: [] for name in streams}
    faster: dict[str, list[float]] = {name: [] for name in streams}
    for number in range(warm_up + chunks):
        if number % 2 == 0:
            _put_back(exact, streams)
        if number == warm_up:
            for counter in counters.values():
                counter.computed = 0.0
        begun = process_time()
        true = make(EXACT, exact, number)
        spent = process_time() - begun
        for name, stream in streams.items():
            begun = process_time()
            pixels = make(name, stream, number)
            own = process_time() - begun
            if number >= warm_up:
                errors[name].append(decibels(true, pixels))
                faster[name].append(spent / own)
    whole = counters[EXACT].computed
    rows: dict[str, Row] = {EXACT: {"layers": 1.0, "speed": 1.0, "psnr": None, "worst": None, "bytes": 0}}
    for name, stream in streams.items():
        rows[name] = {
            "layers": counters[name].computed / whole,
            "speed": median(faster[name]),
            "psnr": median(errors[name]),
            "worst": min(errors[name]),
            "bytes": sum(tensor.nbytes for left in stream.state.residuals for tensor in left.tensors().values()),
        }
    return rows


def from_words(studio: Studio, base: Preset, chunks: int) -> dict[str, Row]:
    """Films of prompts; half-way the prompt changes."""
    from benchmarks.quality.drift import moving_prompts
    from pipelines.types import Controls

    texts, warm_up = [Controls(text) for text, _ in moving_prompts(2)], base.cache.capacity // base.chunk

    def make(_: str, stream: Stream, number: int) -> NDArray[np.uint8]:
        return _pixels(stream.next_chunk(texts[number >= warm_up + chunks // 2]))

    streams: dict[str, Stream] = {}
    for name, preset in ways(base).items():
        try:
            streams[name] = studio.stream(1, preset)
        except ValueError as error:  # it goes by a profile that this model lacks
            studio.report(f"{name} is left out: {error}")
    for name in ("clean-pass", "planned"):  # as they are without what was fitted
        layers = streams[name].engine.policies.layers if name in streams else None
        if isinstance(layers, CleanPass | Planned) and layers.facts is not None:
            streams[f"{name}, not corrected"] = uncorrected(streams[name])
    return forced(studio.stream(1, base), streams, chunks, warm_up, make)


def uncorrected(stream: Stream) -> Stream:
    """A stream that is about to begin, without the corrections of its feature cache."""
    engine, (height, width) = stream.engine, stream.state.latents.ring.shape[-2:]
    layers = engine.policies.layers
    assert isinstance(layers, CleanPass | Planned)
    layers = replace(layers, facts=None)
    engine = replace(engine, policies=replace(engine.policies, layers=layers))
    return type(stream)(engine, height=height, width=width, seed=stream.state.seed)


def of_video(studio: Studio, base: Preset, chunks: int, *, moves: bool) -> dict[str, Row]:
    """Films of a painted video that stands still or moves, with the same noise in every chunk."""
    from benchmarks.quality.painted import paint
    from pipelines.build import build_stream
    from pipelines.streaming import Stream
    from pipelines.types import Controls
    from pipelines.video import VideoInput
    from training.captions import held_out_prompts

    (text, spec), warm_up = held_out_prompts(1, seed=6)[0], base.cache.capacity // base.chunk
    spec = replace(spec, motion="right" if moves else "still")
    anchored = replace(base, video=replace(base.video, anchored=True))
    height, width = studio.size
    source = paint(spec, height, 12 * (warm_up + chunks + 1)).permute(0, 2, 3, 1).numpy()

    def stream_of(preset: Preset) -> Stream:
        return build_stream(preset, studio.loaded.components, height=height, width=width, seed=1, video=True)

    names = {f"cross-chunk, {age}": CrossChunk((), base.chunk, age=age) for age in AGES}
    exact = stream_of(anchored)
    streams: dict[str, Stream] = {"fewer steps": stream_of(apply_knobs(anchored, {"num_inference_steps": 2}))}
    for name, policy in names.items():
        engine = exact.engine
        layers = replace(policy, levels=engine.policies.plan.levels)
        size = exact.state.latents.ring.shape[-2:]
        engine = replace(engine, policies=replace(engine.policies, layers=layers))
        streams[name] = Stream(engine, height=size[0], width=size[1], seed=1, video=True)
    inputs = {name: VideoInput(stream) for name, stream in {EXACT: exact, **streams}.items()}

    def make(name: str, stream: Stream, number: int) -> NDArray[np.uint8]:
        begin = 0 if number == 0 else 12 * number - 3
        (shown,) = inputs[name].push(source[begin : begin + inputs[name].wants], Controls(text, strength=STRENGTH))
        return shown.pixels

    return forced(exact, streams, chunks, warm_up, make)


def _pixels(chunk: Chunk) -> NDArray[np.uint8]:
    assert chunk.pixels is not None  # every chunk is decoded
    return chunk.pixels


def _counted(stream: Stream) -> Counting:
    counter = Counting(stream.runner, stream.state.kv[0].shape.layers)
    stream.runner = counter
    return counter


def _put_back(exact: Stream, streams: Mapping[str, Stream]) -> None:
    """Let every stream go on from where the exact film stands, with the features that it left itself.

    A memory that is not of the exact film's kind stays what it is.
    """
    from pipelines.state import Snapshot

    stands = exact.snapshot().tree
    for stream in streams.values():
        own = stream.snapshot().tree
        stays = ["residuals"] if own["kv"][0].keys() == stands["kv"][0].keys() else ["residuals", "kv"]
        stream.restore(Snapshot({**stands, **{name: own[name] for name in stays}}))


def decibels(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Peak signal to noise of two chunks of pictures."""
    import numpy as np

    error = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return float(10 * np.log10(255**2 / max(error, _SAME)))


def cells(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    same = row["psnr"] is not None and row["worst"] > 100
    right = row.get("adherence")
    return (
        name,
        f"{100 * row['layers']:.0f} %",
        f"{row['speed']:.2f}x",
        "-" if row["psnr"] is None else "same" if same else f"{row['psnr']:.1f}",
        "-" if row["psnr"] is None else "same" if same else f"{row['worst']:.1f}",
        "-" if right is None else f"{100 * right['share']:.0f} % ({right['right']} of {right['of']})",
        f"{row['bytes'] / 2**20:.1f}",
    )


HEADINGS = ("way", "layers", "speed", "dB, median", "dB, worst chunk", "films right", "MiB kept")


def table(result: dict[str, Any]) -> Table:
    """Lay the numbers out for a person."""
    from rich.table import Table

    title = f"{result['preset']}, {result['steps']} steps, {result['chunks']} chunks under teacher forcing"
    rows = Table(*HEADINGS, title=title, caption=said(result["map"]))
    for heading, part in parts(result).items():
        for name, row in part.items():
            rows.add_row(*cells(f"{heading}{name}", row))
    return rows


def parts(result: Mapping[str, Any]) -> dict[str, Mapping[str, Row]]:
    """The rows of films of words, and of video, behind what their names begin with."""
    many = {f"{result['many_steps']} guided steps: ": result["many"]} if "many" in result else {}
    films = many | {"video still: ": result.get("still", {}), "video moving: ": result.get("moving", {})}
    return {"": result["rows"], **films}


def said(found: Mapping[str, Any]) -> str:
    """The map in a sentence."""
    near = [value for level in found["apart"]["1"] for value in level]
    return (
        f"What a layer adds differs from a chunk ago by {min(near):.2f} to {max(near):.2f} of its size, in the clean "
        f"pass from the last level by {min(found['clean']):.2f} to {max(found['clean']):.2f}."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse(EngineBenchmark):
    """What feature caches save and cost, beside fewer steps in the same time.

    Every other chunk all go on from where the exact film stands: errors are a way's own, not drift.
    """

    chunks: Annotated[int, typer.Option("--chunks", min=4, max=10_000, help="Compared with the exact film.")] = 40
    prompts: Annotated[int, typer.Option("--prompts", min=0, max=10_000, help="Films judged under each way.")] = 20
    seconds: Annotated[float, typer.Option("--seconds", min=2, max=600, help="Of each film.")] = 4.0
    steps: Annotated[int | None, typer.Option("--steps", min=1, max=1000, help="Of the exact film.")] = None
    many: Annotated[int, typer.Option("--many", min=0, max=1000, help="Films of so many guided steps too.")] = 0
    quick: Quick = False
    table = staticmethod(table)

    @property
    def partial(self) -> bool:
        return self.quick or self.steps is not None

    def measure(self, run: Run) -> dict[str, Any]:
        """See `measure` above."""
        from benchmarks.quality.studio import Studio

        studio = Studio.open(self.engine, run.report)
        chunks, prompts = (8, 0) if self.quick else (self.chunks, self.prompts)
        return measure(
            studio,
            chunks=chunks,
            prompts=prompts,
            seconds=self.seconds,
            report=run.report,
            steps=self.steps,
            many=self.many,
        )
