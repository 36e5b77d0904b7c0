"""Estimate of what a render will cost, measured by rendering a little of it: `rivulet render --dry_run`.

A guess from a table would be wrong on most machines; a few chunks of the film's own prompts take seconds and are right.
"""

import math
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import fmean

from rich.console import Console

from app.errors import EXIT_OK, UsageMistake
from app.loading.model import Opened, at_hand, open_stream
from app.loading.verdict import Verdict, verdict_on
from app.media.join import join
from app.media.stills import sink_kind
from app.record.journal import KEPT, Journal
from app.record.pictures import picture_record
from app.record.request import RenderRequest, header_of
from app.record.sidecar import one_line, shot_records, written_bytes
from app.render.beginning import check_beginning
from app.render.dry_run import Estimate, dry_run_data, dry_run_lines
from app.render.judging import judge
from app.render.output import Film
from app.script.script import check_script
from app.script.timeline import Shot, Timeline
from pipelines.types import Controls
from weights.catalog import MODELS
from weights.find import get_model

SHARE, LEAST = 1 / 50, 12
"""How much of a film is tried, and how many chunks at least."""
RUN = 6
"""Chunks in a row: the first of a shot costs more than those that follow."""
PATIENCE, FEWEST = 60.0, 3
"""Seconds after which no further chunk is tried, unless these few are still missing: slow models tell soon enough."""


@dataclass(frozen=True, slots=True)
class _Tried:
    """A chunk that was rendered to see what it takes."""

    opens: bool
    frames: int
    seconds: float
    bytes: int


def dry_run(request: RenderRequest, *, console: Console, as_json: bool = False) -> int:
    """Print the timeline with what it will take, render no film, and return the exit code.

    Raises:
        UsageMistake, ValueError, OSError: what `render` would refuse.
    """
    here = _verdict(request)
    timeline, estimate = estimate_film(request)
    if as_json:
        told = dry_run_data(timeline, estimate, notes=request.script.notes)
        told["verdict"] = None if here is None else here.as_data()
        print(one_line(told), file=console.file)
        return EXIT_OK
    if here is not None:
        console.print(f"{here.told}.", soft_wrap=True)
    for line in dry_run_lines(timeline, estimate, notes=request.script.notes):
        console.print(line, soft_wrap=True)
    free = shutil.disk_usage(request.output.absolute().parent).free if request.output.absolute().parent.is_dir() else 0
    if free < estimate.disk_bytes:
        console.print(
            f"There are only {free / 1e9:.1f} GB free where {request.output} goes: it will not fit.", style="red"
        )
    return EXIT_OK


def _verdict(request: RenderRequest) -> Verdict | None:
    """What this machine can do with the model, before it is loaded; a dry run fetches nothing.

    Raises:
        UsageMistake: its weights are not here; the text says what it needs, and how to fetch them.
    """
    engine = request.engine
    name = engine.model or engine.preset.model
    model = get_model(name)
    size = (engine.height or model.size[0], engine.width or model.size[1])
    here = verdict_on(
        model, engine.preset, device=engine.device, size=size, models_dir=engine.models_dir, vae=engine.vae
    )
    if name in MODELS and not at_hand(name, engine.models_dir):
        to = "" if engine.models_dir is None else f" --models_dir {shlex.quote(str(engine.models_dir))}"
        told = "" if here is None else f" {here.told}."
        raise UsageMistake(
            f"{name} is not here, and a dry run fetches nothing.{told} Say: rivulet models pull {name}{to}"
        )
    return here


def estimate_film(request: RenderRequest) -> tuple[Timeline, Estimate]:
    """Load the model, place the shots and measure what the film will take.

    Raises:
        UsageMistake, ValueError, OSError: what `render` would refuse.
    """
    check_script(request.script)
    if request.beginning is not None:
        check_beginning(request.beginning)
    seed = max(request.seed, 0)
    opened = open_stream(request.engine, seed)
    judged = judge(request, opened)
    return judged.timeline, measure(opened, judged.timeline, request, judged.fps, seed)


def measure(opened: Opened, timeline: Timeline, request: RenderRequest, fps: Fraction, seed: int) -> Estimate:
    """Render the beginnings of some shots, evenly spread over the film, and carry the figures over to all of it.

    While it works a film takes the disk twice, growing and under its real name, with the last snapshots and the
    journal; pictures take it once. Afterwards the film, or the pictures, and the .json stay, both of which tell all
    about the film.
    """
    kind = sink_kind(request.output)
    with tempfile.TemporaryDirectory() as name, Journal(Path(name) / "journal") as journal:
        journal.begin(header_of(request, opened, timeline, fps, seed))
        header = journal.path.stat().st_size
        told = header + sum(len(shot.model_dump_json().encode()) for shot in shot_records(timeline))
        grown = Path(name) / "film"
        grown.mkdir()
        film = Film(
            grown / f"some{'_%06d' * (kind == 'png')}.{kind}",
            journal,
            timeline,
            fps=fps,
            scale=request.scale,
            crf=request.crf,
            preset=request.encoder_preset,
            segment_chunks=timeline.chunks,
        )
        tried: list[_Tried] = []
        records = 0
        begun = time.perf_counter()
        for opens, shot in _trials(timeline):
            if film.whole or (time.perf_counter() - begun > PATIENCE and len(tried) >= FEWEST):
                break
            before, start = _bytes_in(grown), time.perf_counter()
            guidance = dict(shot.parameters).get("guidance_scale")
            chunk = opened.stream.next_chunk(Controls(shot.prompt, shot.transition, guidance))
            record = film.add(chunk, opened.memory())
            seconds = time.perf_counter() - start
            records += written_bytes(record)
            tried.append(_Tried(opens, record.shown, seconds, _bytes_in(grown) - before))
        film.close()
        sample = _bytes_in(grown)
        begun = time.perf_counter()
        told += len(picture_record(film.path, []).model_dump_json(indent=2)) + 64  # and the hash of the file
        reading = (time.perf_counter() - begun) / film.frames * timeline.frames
        final, snapshots = 1.0, 0
        if kind == "mp4":
            joined = Path(name) / "joined.mp4"
            join([film.path], joined)
            final = joined.stat().st_size / sample
            opened.save(journal.snapshot_path(0))
            kept = min(KEPT, (timeline.chunks - 1) // request.segment_chunks)
            snapshots = kept * journal.snapshot_path(0).stat().st_size
        notes = (journal.path.stat().st_size - header) / len(tried) * timeline.chunks
    grown_bytes = _whole([chunk.bytes for chunk in tried], tried, timeline)
    stays = grown_bytes * final + 2 * told + records / len(tried) * timeline.chunks
    return Estimate(
        seconds=_whole([chunk.seconds for chunk in tried], tried, timeline) + reading,
        disk_bytes=round(stays + snapshots + notes + grown_bytes * (kind == "mp4")),
        film_bytes=round(stays),
        memory_bytes=opened.memory(),
        unknown={word: near for text in _texts(timeline) for word, near in opened.read_prompt(text).items()},
        basis=f"measured on {film.frames} frames of {sum(chunk.opens for chunk in tried)} shots on this machine",
    )


def _texts(timeline: Timeline) -> Iterator[str]:
    for shot in timeline.shots:
        yield from [shot.prompt] if isinstance(shot.prompt, str) else [text for text, _ in shot.prompt]


def _trials(timeline: Timeline) -> Iterator[tuple[bool, Shot]]:
    """The shots to show in turn, chunk by chunk, and whether a chunk opens its shot."""
    chunks = max(LEAST, math.ceil(timeline.chunks * SHARE))
    count = min(len(timeline.shots), math.ceil(chunks / RUN))
    for index in range(count):
        shot = timeline.shots[index * len(timeline.shots) // count]
        for part in range(math.ceil(chunks / count)):
            yield not part, shot


def _whole(values: Sequence[float], tried: Sequence[_Tried], timeline: Timeline) -> float:
    """What the whole film takes: its first chunk, what opens its other shots, and what follows, each by its kind."""
    openings = [value for value, chunk in zip(values[1:], tried[1:], strict=True) if chunk.opens]
    following = [(value, chunk.frames) for value, chunk in zip(values, tried, strict=True) if not chunk.opens]
    if not following:
        return values[0] * timeline.frames / tried[0].frames
    others = len(timeline.shots) - 1 if openings else 0
    rest = timeline.frames - tried[0].frames - others * following[0][1]
    rate = sum(value for value, _ in following) / sum(frames for _, frames in following)
    return values[0] + (others * fmean(openings) if others else 0) + rate * rest


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
