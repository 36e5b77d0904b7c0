"""Make a live film again from its session.jsonl: what was on screen last, chunk by chunk, as one film."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from rich.console import Console

from app.course import in_words
from app.errors import EXIT_FAILURE, EXIT_OK, UsageMistake
from app.joining import join
from app.live_model import LiveModel, LiveOpener, open_live
from app.opening import EngineRequest
from app.recipe import same_system
from app.subtitles import Chapter, chapters_of
from app.take import Header, Take, TakeChunk, header_of, read_take, shots_of
from app.take_tags import tags_of
from app.video import FilmWriter, viewing_scale
from pipelines.presets import PRESETS
from pipelines.presets.knobs import apply_knobs
from pipelines.types import Chunk


def retake(
    path: Path, output: Path, *, check: bool, overwrite: bool, console: Console, opener: LiveOpener = open_live
) -> int:
    """Make the film of a log again, and return the exit code: 1 if a chunk came out differently.

    Args:
        path: a session.jsonl.
        output: the film, an .mp4.
        check: compare every chunk with the one that was on screen.
        overwrite: replace `output`.
        console: where to print.
        opener: loads the model.

    Raises:
        UsageMistake, ValueError, OSError: the log, its model or the output cannot be used.
    """
    if output.suffix.lower() != ".mp4":
        raise UsageMistake(f"A live film is made again as an .mp4, not as {output.name}. Give another output.")
    if output.exists() and not overwrite:
        raise UsageMistake(f"{output} exists already. Add --overwrite to replace it, or give another output.")
    take = read_take(path)
    model = opener(_request(take.header, path))
    part = output.with_name(f"{output.stem}.part.mp4")
    film = FilmWriter(
        part,
        height=model.height,
        width=model.width,
        fps=Fraction(model.fps).limit_denominator(1000),
        scale=viewing_scale(model.height, model.width),
    )
    different: TakeChunk | None = None
    try:
        for wanted, chunk in _chunks(take, model):
            assert chunk.pixels is not None
            film.write(chunk.pixels[: wanted.shown])
            if different is None and chunk.sha256 != wanted.sha256:
                different = wanted
        film.close()
        join([part], output, chapters=_chapters(take), metadata=tags_of(take, str(path)))
    finally:
        film.abandon()
        part.unlink(missing_ok=True)
    console.print(f"{output}: {film.frames} frames, {film.frames / model.fps:.1f} s.", soft_wrap=True)
    if not check:
        return EXIT_OK
    if different is None:
        console.print(f"The same film: all {len(take.chunks)} chunks are bit for bit the same.", soft_wrap=True)
        return EXIT_OK
    console.print(
        f"Not the same film. The first chunk that differs is {different.index} (frame {different.first}). "
        f"{_reasons(take.header, header_of(model))}",
        soft_wrap=True,
    )
    return EXIT_FAILURE


def _request(header: Header, path: Path) -> EngineRequest:
    if header.preset not in PRESETS:
        raise UsageMistake(f"{path}: this version has no preset {header.preset!r}. Use the one that made the film.")
    try:
        preset = apply_knobs(PRESETS[header.preset], header.knobs)
    except ValueError as error:
        raise UsageMistake(f"{path}: its settings cannot be used ({error}). Film it anew.") from None
    if header.system and not same_system(preset, header.system):
        raise UsageMistake(
            f"{path}: preset {header.preset!r} has changed since. Use the version of Rivulet that made the film."
        )
    return EngineRequest(
        preset=preset,
        model=header.model.name,
        untrained=header.untrained,
        device=header.device,
        threads=header.threads,
        height=header.height,
        width=header.width,
    )


def _chunks(take: Take, model: LiveModel) -> Iterator[tuple[TakeChunk, Chunk]]:
    first = take.chunks[0].moment
    stream = model.new_stream(first.seed, first.knobs)
    for wanted in take.chunks:
        stream.turn(wanted.moment.knobs)
        yield wanted, stream.next_chunk(wanted.moment.controls)


def _chapters(take: Take) -> tuple[Chapter, ...]:
    starts: list[tuple[int, str]] = []
    for frame, moment in shots_of(take):
        words = in_words(moment.prompt)
        if not starts or starts[-1][1] != words:
            starts.append((frame, words))
    fps = take.header.fps
    return chapters_of([(frame / fps, words) for frame, words in starts], sum(c.shown for c in take.chunks) / fps)


def _reasons(before: Header, now: Header) -> str:
    changed = [
        f"{name} {old} then, {new} now"
        for name, old, new in (
            *((name, old, now.versions.get(name)) for name, old in before.versions.items()),
            ("CPU", before.machine.get("cpu"), now.machine.get("cpu")),
            ("threads", before.threads, now.threads),
            ("model", before.model.sha256[:12], now.model.sha256[:12]),
        )
        if old != new
    ]
    if not changed:
        return "Machine, versions and model are the same, so this should not be: please report it."
    return f"What changed: {'; '.join(changed)}."
