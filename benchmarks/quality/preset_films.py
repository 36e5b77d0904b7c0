"""The same scripts under every preset, on the model that ships: what each memory makes of a film, and what it costs.

The policies are the preset's, the sampler is the model's: step lists belong to the weights they were distilled into,
and under those the embedded model would draw mush whatever it remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, cast

import torch
from PIL import Image, ImageDraw
from rich.table import Table
from torch import Tensor

from app.loading.engine_request import EngineRequest
from benchmarks.quality.switching import time_until_right
from cache.selection import Selection
from pipelines.build import build_stream
from pipelines.components import Components, choose_device, load_components
from pipelines.cost import steady
from pipelines.presets import PRESETS, Preset
from pipelines.presets.knobs import spaced_steps
from pipelines.streaming import Stream
from pipelines.types import Chunk, Controls
from training.captions import plain
from training.scorer import Scorer, adherence
from training.world import ClipSpec

SCRIPTS = (
    (
        ClipSpec("red", "ball", "big", "bounce", "sea", 0.5, 0.5, 0.2, 1),
        ClipSpec("blue", "star", "big", "right", "snow", 0.5, 0.5, 0.2, 2),
    ),
    (
        ClipSpec("yellow", "heart", "big", "still", "night", 0.5, 0.5, 0.2, 3),
        ClipSpec("green", "square", "big", "orbit", "meadow", 0.5, 0.5, 0.2, 4),
    ),
    (
        ClipSpec("white", "ring", "big", "up", "desert", 0.5, 0.5, 0.2, 5),
        ClipSpec("pink", "triangle", "big", "left", "city", 0.5, 0.5, 0.2, 6),
    ),
)
"""What a film shows first, and what after its switch in the middle."""

BASE = "longlive"
ALLOWED = 0.05
"""Of a chunk, that a preset's engine may take on top of what the base's takes for one."""

MOMENTS = (0.2, 0.45, 0.6, 0.95)
"""Of a film, in the picture."""


@dataclass(slots=True)
class _Film:
    """What one script gave: pixels before and after the switch, drift at the end, times of chunks, steady or not."""

    parts: list[Tensor] = field(default_factory=list[Tensor])
    drift: float | None = None
    times: list[tuple[bool, dict[str, float]]] = field(default_factory=list[tuple[bool, dict[str, float]]])


def measure(
    engine: EngineRequest,
    presets: Mapping[str, Preset] = PRESETS,
    *,
    seconds: float = 8.0,
    scripts: int = len(SCRIPTS),
    untrained: bool = False,
    sheet: Path | None = None,
    report: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Render, judge and time; every film has its own seed, equal from preset to preset and from run to run.

    Args:
        engine: model and device; its preset plays no part.
        presets: by name.
        seconds: of a film, half of them before the switch; the last film goes on for as long again.
        scripts: how many of SCRIPTS.
        untrained: render those too that the model was not trained for.
        sheet: where the picture goes, a row a preset; None for none.
        report: told before each preset.
    """
    device, dtype = choose_device(engine.device)
    components = load_components(engine.model or "embedded", device=device, dtype=dtype)
    scorer, base = Scorer.load(), _Base(components)
    rows: list[dict[str, Any]] = []
    pictures: list[tuple[str, list[Tensor]]] = []
    for name, preset in presets.items():
        report(name)
        missing = strangers(preset, components.card)
        row: dict[str, Any] = {"preset": name, "not_trained_for": missing}
        rows.append(row)
        if preset.plan not in components.card["plans"] and not untrained:
            row["left_out"] = "not trained for its plan: pass --untrained to see it all the same"
            continue
        films, bytes_held = _render(with_sampler(preset), components, seconds, scripts)
        row |= _judge(films, scorer, scripts) | _time(films)
        row["overhead_over_base"] = (row["engine_s"] - base.engine_seconds()) / row["chunk_s"]
        row |= {"state_bytes": bytes_held, "keys": steady(preset).keys}
        pictures.append((name + (" (not trained for)" if missing else ""), [_moments(film) for film in films]))
    if sheet is not None:
        contact_sheet(pictures).save(sheet, optimize=True)
    return {
        "benchmark": "presets",
        "model": components.name,
        "version": components.card.get("version"),
        "device": device,
        "threads": torch.get_num_threads(),
        "seconds_a_film": seconds,
        "scripts": [[plain(before), plain(after)] for before, after in SCRIPTS[:scripts]],
        "base": BASE,
        "overhead_allowed": ALLOWED,
        "presets": rows,
        "passed": all(row.get("overhead_over_base", 0.0) <= ALLOWED for row in rows),
    }


def strangers(preset: Preset, card: Mapping[str, Any]) -> list[str]:
    """What of a preset the model's card does not list: its plan, its chunk, a window wider than any in training."""
    found: list[str] = []
    if preset.plan not in card["plans"]:
        found.append(f"plan {preset.plan}")
    if preset.chunk not in card.get("chunk", [preset.chunk]):
        found.append(f"chunks of {preset.chunk}")
    keys = max(forward.keys for chunk in steady(preset).cycle for forward in chunk)
    if keys > card.get("window", keys):
        found.append(f"{keys} keys")
    return found


def with_sampler(preset: Preset) -> Preset:
    """The preset with the embedded model's sampler.

    A plan that keeps one chunk or row a level keeps their number, and a multistep solver stays: both are part of what
    the preset is.
    """
    mine, own = preset.schedule, PRESETS["embedded"].schedule
    count = len((own if mine.plan == "serial" else mine).denoising_step_list)
    step = "unipc" if mine.step == "unipc" else own.step
    schedule = replace(mine, step=step, shift=own.shift, warp=own.warp, guidance_scale=own.guidance_scale)
    return replace(preset, schedule=replace(schedule, denoising_step_list=spaced_steps(schedule, count)))


def _render(preset: Preset, components: Components, seconds: float, scripts: int) -> tuple[list[_Film], int]:
    """Films of all scripts, the last one going on for its length again so that it can drift; bytes of a stream."""
    warm_up = steady(preset).warm_up
    films: list[_Film] = []
    held = 0
    for number, clips in enumerate(SCRIPTS[:scripts]):
        stream = build_stream(preset, components, seed=number, untrained=True)
        film = _Film()
        scenes = [(clip, seconds / 2) for clip in clips] + [(clips[-1], seconds)] * (number == scripts - 1)
        for turn, (clip, length) in enumerate(scenes):
            frames: list[Tensor] = []
            while sum(len(part) for part in frames) < length * stream.fps:
                chunk, times = _next(stream, clip)
                assert chunk.pixels is not None
                switched = turn == 1 and not frames
                film.times.append((chunk.index >= warm_up and not switched, times))
                frames.append(torch.from_numpy(chunk.pixels).permute(0, 3, 1, 2))
                film.drift = chunk.drift
            if turn < len(clips):
                film.parts.append(torch.cat(frames))
        films.append(film)
        held = tensor_bytes(stream.snapshot())
    return films, held


def _next(stream: Stream, clip: ClipSpec) -> tuple[Chunk, dict[str, float]]:
    with _selection_time() as selecting:
        begun = perf_counter()
        chunk = stream.next_chunk(Controls(plain(clip)))
        spent = perf_counter() - begun
    return chunk, _times(chunk, spent, sum(selecting))


class _Base:
    """The preset to compare with, timed again beside each of the others: machines have moods."""

    def __init__(self, components: Components) -> None:
        preset = with_sampler(PRESETS[BASE])
        self._stream = build_stream(preset, components, untrained=True)
        for _ in range(steady(preset).warm_up):
            self.engine_seconds(1)

    def engine_seconds(self, chunks: int = 5) -> float:
        return median(_next(self._stream, SCRIPTS[0][0])[1]["engine"] for _ in range(chunks))


def _times(chunk: Chunk, spent: float, selecting: float) -> dict[str, float]:
    assert chunk.pixels is not None
    made = spent - chunk.seconds["decode"]
    generate = sum(chunk.seconds.get(hop, 0.0) for hop in ("conditioning", "plan", "denoise", "remember"))
    return {
        "frames": float(len(chunk.pixels)),
        "chunk": spent,
        "generate": generate,
        # Choosing tokens happens inside the transformer, and is the policy's doing all the same.
        "engine": made - chunk.seconds["model"] + selecting,
    }


@contextmanager
def _selection_time() -> Iterator[list[float]]:
    """Seconds spent on choosing tokens by content, one a layer and pass."""
    spent: list[float] = []
    observe = Selection.observe

    def timed(self: Selection, layer: int, queries: Tensor, view_keys: Tensor, view_values: Tensor) -> None:
        begun = perf_counter()
        observe(self, layer, queries, view_keys, view_values)
        spent.append(perf_counter() - begun)

    Selection.observe = timed  # type: ignore[method-assign]  # put back below
    try:
        yield spent
    finally:
        Selection.observe = observe  # type: ignore[method-assign]


def tensor_bytes(part: object) -> int:
    """Of all tensors in a snapshot."""
    if isinstance(part, Tensor):
        return part.nbytes
    if is_dataclass(part):
        return sum(tensor_bytes(getattr(part, each.name)) for each in fields(part))
    if isinstance(part, Mapping):
        return sum(tensor_bytes(each) for each in cast("Mapping[object, object]", part).values())
    if isinstance(part, list | tuple):
        return sum(tensor_bytes(each) for each in cast("Sequence[object]", part))
    return 0


def _judge(films: Sequence[_Film], scorer: Scorer, scripts: int) -> dict[str, Any]:
    clips = [clip for pair in SCRIPTS[:scripts] for clip in pair]
    shown: list[Tensor] = []
    for film in films:  # the judgement leaves the first second after the switch to the transition
        shown += [film.parts[0], film.parts[1][min(16, len(film.parts[1]) // 2) :]]
    waits = [
        time_until_right(scorer, film.parts[1], before, after, 16)
        for film, (before, after) in zip(films, SCRIPTS, strict=False)
    ]
    middle = median(waits)
    return {
        "adherence": adherence(shown, clips, scorer),
        "switch_seconds": middle if middle < float("inf") else None,
        "drift": films[-1].drift,
    }


def _time(films: Sequence[_Film]) -> dict[str, float]:
    rows = [row for film in films for is_steady, row in film.times if is_steady] or [films[-1].times[-1][1]]
    middle = {name: median(row[name] for row in rows) for name in rows[0]}
    return {
        "chunks_measured": len(rows),
        "chunk_s": middle["chunk"],
        "fps_denoise": middle["frames"] / middle["generate"],
        "fps_end_to_end": middle["frames"] / middle["chunk"],
        "engine_s": middle["engine"],
        "overhead": middle["engine"] / middle["chunk"],
    }


def _moments(film: _Film) -> Tensor:
    whole = torch.cat(film.parts)
    return whole[[round(moment * (len(whole) - 1)) for moment in MOMENTS]]


def contact_sheet(rows: Sequence[tuple[str, list[Tensor]]], side: int = 80) -> Image.Image:
    """A row a preset: its name over the moments of each film, [T, 3, H, W] uint8."""
    label, gap, apart = 16, 2, 10
    columns = sum(len(film) for film in rows[0][1])
    width = columns * (side + gap) + (len(rows[0][1]) - 1) * apart
    sheet = Image.new("RGB", (width, len(rows) * (side + label + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (name, films) in enumerate(rows):
        top, left = number * (side + label + gap), 0
        draw.text((2, top + 2), name, fill="black")
        for film in films:
            for frame in film:
                picture = Image.fromarray(frame.permute(1, 2, 0).numpy())
                sheet.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (left, top + label))
                left += side + gap
            left += apart
    return sheet.quantize(256)


HEADINGS = ("right, %", "switch", "drift", "fps", "shown", "MiB", "keys", "engine", "over")


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A preset's numbers under HEADINGS: colour, shape, motion and scene; fps without and with decoding; the engine's
    share of a chunk, and the share of what it takes longer for a chunk than the base's.
    """
    right = row["adherence"]
    return (
        " ".join(f"{100 * right[name]:.0f}" for name in ("color", "shape", "motion", "scene")),
        "never" if row["switch_seconds"] is None else f"{row['switch_seconds']:.2f}",
        "-" if row["drift"] is None else f"{row['drift']:.1f}",
        f"{row['fps_denoise']:.1f}",
        f"{row['fps_end_to_end']:.1f}",
        f"{row['state_bytes'] / 2**20:.1f}",
        f"{row['keys']:g}",
        f"{row['overhead']:.1%}",
        f"{row['overhead_over_base']:+.1%}",
    )


def table(result: dict[str, Any]) -> Table:
    """Lay the numbers out for a person."""
    marked = {row["preset"]: ", ".join(row["not_trained_for"]) for row in result["presets"] if row["not_trained_for"]}
    grid = Table(
        title=f"the same {len(result['scripts'])} scripts on {result['model']}, {result['seconds_a_film']:g} s each, "
        f"{result['device']}, {result['threads']} threads",
        caption="\n".join(f"* {name}: not trained for {what}" for name, what in marked.items()),
        box=None,
        padding=(0, 1, 0, 0),
    )
    for heading in ("preset", *HEADINGS):
        grid.add_column(heading, justify="left" if heading == "preset" else "right", no_wrap=True)
    for row in result["presets"]:
        name = row["preset"] + (" *" if row["preset"] in marked else "")
        grid.add_row(name, *(("left out",) if "left_out" in row else cells(row)))
    return grid
