"""What using features again saves and what it costs, beside the honest rival: fewer steps in the same time.

Before anything is promised, a map of redundancy: by how much what a layer adds differs from what it added a chunk ago
at the same level, and the pass that writes the memory from the last denoising pass. Then every way is compared with the
exact film under teacher forcing: every other chunk it is put back to where the exact film stands, so that errors are
its own and no drift. Work is counted in layers, and time is the processor's, way and exact film taking turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from time import process_time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.benchmark import EngineBenchmark, Quick, Run
from cache import FEATURE_CACHES
from cache.features.reuse import in_order, kept
from cache.layer_plan import EVERY, LayerPlan, LayerPolicy, Left
from cache.types import Pass, Row, Slots
from pipelines.presets import Preset
from pipelines.presets.knobs import apply_knobs, knob_values

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table
    from torch import Tensor

    from benchmarks.quality.studio import Studio
    from models.transformer import Batch, Runner
    from pipelines.streaming import Stream

EXACT = "exact"
APART = (1, 2, 3)
"""Chunks between two that the map compares."""
FEWER = (0.75, 0.5)
"""Shares of the steps that the rivals take."""
_SAME = 1e-6
"""Mean squared error of pictures that are the same."""


@dataclass(frozen=True, slots=True)
class Keeping(LayerPolicy):
    """Leaves what every layer adds, at every level and in the clean pass, and changes nothing."""

    levels: tuple[float, ...]

    def buffers(self, layers: int) -> int:
        return layers * (len(self.levels) + 1)

    @property
    def chunks(self) -> int:
        return max(APART) + 1

    def plan(self, work: Pass, row: Row, slots: Slots, left: Left) -> LayerPlan:
        if work.kind == "clean":
            number = len(self.levels)
        elif work.kind == "denoise" and row.levels[0] in self.levels:
            number = self.levels.index(row.levels[0])
        else:
            return EVERY
        taps = (kept(range(layer, layer + 1), number * left.layers + layer) for layer in range(left.layers))
        return LayerPlan(taps=in_order(*(tap for pair in taps for tap in pair)))


class Counting:
    """Counts the layers that a runner computes; those that leave only their keys are a tenth of one."""

    def __init__(self, runner: Runner, layers: int) -> None:
        self._runner, self._layers = runner, layers
        self.computed = 0.0

    def run(self, batches: Sequence[Batch]) -> list[Tensor]:
        for batch in batches:
            plan = batch.layers
            for layer in range(self._layers):
                self.computed += 0.0 if not plan.runs(layer) else 0.1 if plan.only_keys(layer) else 1.0
        return self._runner.run(batches)


def ways(base: Preset) -> dict[str, Preset]:
    """Every feature cache, and fewer steps."""
    steps = knob_values(base)["num_inference_steps"]
    assert isinstance(steps, int)
    counts = sorted({max(1, round(steps * part)) for part in FEWER} - {steps}, reverse=True)
    fewer = {f"{count} steps": apply_knobs(base, {"num_inference_steps": count}) for count in counts}
    return fewer | {name: apply_knobs(base, {"feature_cache": name}) for name in FEATURE_CACHES}


def redundancy(studio: Studio, base: Preset, *, chunks: int) -> dict[str, Any]:
    """How much what each layer adds changes, of its size, [levels][layers]: by chunks apart, and of the clean pass."""
    from benchmarks.quality.drift import moving_prompts
    from pipelines.types import Controls

    stream = studio.stream(1, base)
    levels = stream.engine.policies.plan.levels
    engine = replace(stream.engine, policies=replace(stream.engine.policies, layers=Keeping(levels)))
    height, width = stream.state.latents.ring.shape[-2:]
    stream = type(stream)(engine, height=height, width=width, seed=1)
    layers, size = stream.state.kv[0].shape.layers, base.chunk
    controls = Controls(moving_prompts(1)[0][0])
    found: dict[int, list[list[list[float]]]] = {apart: [] for apart in APART}
    clean: list[list[float]] = []
    held = stream.state.residuals[0]

    def change(buffer: int, now: range, other: int, then: range) -> float:
        one, two = held.get(buffer, now), held.get(other, then)
        return float((one - two).abs().mean() / two.abs().mean())

    for number in range(chunks + max(APART)):
        frames = stream.next_chunk(controls, decode=False).latent
        now = range(frames.start, frames.stop)
        if number < max(APART):
            continue
        for apart in APART:
            then = range(now.start - apart * size, now.stop - apart * size)
            found[apart].append(
                [
                    [change(i * layers + layer, now, i * layers + layer, then) for layer in range(layers)]
                    for i in range(len(levels))
                ]
            )
        last, own = (len(levels) - 1) * layers, len(levels) * layers
        clean.append([change(last + layer, now, own + layer, now) for layer in range(layers - 1)])
    return {
        "levels": list(levels),
        "layers": layers,
        "apart": {
            str(apart): [
                [median(each[i][layer] for each in rows) for layer in range(layers)] for i in range(len(levels))
            ]
            for apart, rows in found.items()
        },
        "clean": [median(each[layer] for each in clean) for layer in range(layers - 1)],
    }


def measure(
    studio: Studio,
    *,
    chunks: int,
    prompts: int,
    seconds: float,
    report: Callable[[str], object],
    steps: int | None = None,
) -> dict[str, Any]:
    """Every way beside the exact film.

    Args:
        studio: model and preset.
        chunks: compared under teacher forcing.
        prompts: films that are judged under each way; 0 for none.
        seconds: of each of them.
        report: told how far it is.
        steps: of the exact film; the preset's if None.
    """
    base = studio.engine.preset if steps is None else apply_knobs(studio.engine.preset, {"num_inference_steps": steps})
    report("map of redundancy")
    result = {"benchmark": "cache", **studio.identity(), "steps": knob_values(base)["num_inference_steps"]}
    result["map"] = redundancy(studio, base, chunks=max(2, chunks // 4))
    report("teacher forcing")
    rows = forced(studio, base, ways(base), chunks)
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


def forced(studio: Studio, base: Preset, others: Mapping[str, Preset], chunks: int) -> dict[str, dict[str, Any]]:
    """Work, time and distance of every way, chunk by chunk beside the exact film; half-way the prompt changes."""
    from benchmarks.quality.drift import moving_prompts
    from pipelines.state import Snapshot
    from pipelines.types import Controls

    texts = [Controls(text) for text, _ in moving_prompts(2)]
    exact, streams = studio.stream(1, base), {name: studio.stream(1, preset) for name, preset in others.items()}
    counters = {name: _counted(stream) for name, stream in {EXACT: exact, **streams}.items()}
    errors: dict[str, list[float]] = {name: [] for name in streams}
    faster: dict[str, list[float]] = {name: [] for name in streams}
    warm_up = base.cache.capacity // base.chunk
    for number in range(warm_up + chunks):
        controls = texts[number >= warm_up + chunks // 2]
        if number % 2 == 0:
            _put_back(exact, streams, Snapshot)
        begun = process_time()
        true = exact.next_chunk(controls).pixels
        spent = process_time() - begun
        for name, stream in streams.items():
            begun = process_time()
            pixels = stream.next_chunk(controls).pixels
            own = process_time() - begun
            assert true is not None
            assert pixels is not None
            if number >= warm_up:
                errors[name].append(decibels(true, pixels))
                faster[name].append(spent / own)
    whole = counters[EXACT].computed
    rows: dict[str, dict[str, Any]] = {EXACT: {"layers": 1.0, "speed": 1.0, "psnr": None, "worst": None, "bytes": 0}}
    for name, stream in streams.items():
        rows[name] = {
            "layers": counters[name].computed / whole,
            "speed": median(faster[name]),
            "psnr": median(errors[name]),
            "worst": min(errors[name]),
            "bytes": sum(tensor.nbytes for left in stream.state.residuals for tensor in left.tensors().values()),
        }
    return rows


def _counted(stream: Stream) -> Counting:
    counter = Counting(stream.runner, stream.state.kv[0].shape.layers)
    stream.runner = counter
    return counter


def _put_back(exact: Stream, streams: Mapping[str, Stream], snapshot: Callable[[Mapping[str, Any]], Any]) -> None:
    """Let every stream go on from where the exact film stands, with the features that it left itself."""
    stands = exact.snapshot().tree
    for stream in streams.values():
        own = stream.snapshot().tree["residuals"]
        stream.restore(snapshot({**stands, "residuals": own}))


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
    for name, row in result["rows"].items():
        rows.add_row(*cells(name, row))
    return rows


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
            studio, chunks=chunks, prompts=prompts, seconds=self.seconds, report=run.report, steps=self.steps
        )
