"""Replay of a session log: what was on screen last of a live film, made again chunk by chunk as one film."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from fractions import Fraction
from pathlib import Path

from rich.console import Console

from app.errors import EXIT_FAILURE, EXIT_OK, UsageMistake, printable, shorten, shorten_path
from app.loading.engine_request import EngineRequest
from app.loading.live import LiveModel, LiveOpener, open_live
from app.media.join import join
from app.media.mp4 import FilmWriter, viewing_scale
from app.media.subtitles import Chapter, chapters_of
from app.record.feeding import FedStream
from app.record.kept_input import KEPT, KeptInput
from app.record.pictures import picture_record
from app.record.provenance import tags_of
from app.record.request import model_of_record, parts_of_record, preset_of
from app.record.session_log import Header, LoggedChunk, SessionLog, header_of, read_log, shots_of
from pipelines.memory_plan import read_memory_plan
from pipelines.presets.knobs import KnobError, apply_knobs
from pipelines.types import Chunk, in_words


def replay_log(
    path: Path,
    output: Path,
    *,
    check: bool,
    overwrite: bool,
    console: Console,
    model: str | None = None,
    pictures: str | None = None,
    parts: Collection[str] = (),
    opener: LiveOpener = open_live,
) -> int:
    """Make the film of a log again, and return the exit code: 1 if a chunk came out differently.

    Args:
        path: a session.jsonl.
        output: the film, an .mp4.
        check: compare every chunk with the one that was on screen.
        overwrite: replace `output`.
        console: where to print.
        model: the model that the person named; None loads what the log names, if it is at hand.
        parts: names of the settings, lora and vae, that the person gave as the log has them.
        pictures: where the recorded input of a film of pictures lies; None looks beside the log.
        opener: loads the model.

    Raises:
        UsageMistake, ValueError, OSError: the log, its model or the output cannot be used.
    """
    if output.suffix.lower() != ".mp4":
        raise UsageMistake(f"A live film is made again as an .mp4, not as {output.name}. Give another output.")
    if output.exists() and not overwrite:
        raise UsageMistake(f"{output} exists already. Add --overwrite to replace it, or give another output.")
    log = read_log(path)
    tags_of(log, str(path))  # refuses before the model loads what no script may hold
    kept = _kept_input(log, path, pictures)
    parts_of_record(log.header.lora, log.header.vae, str(path), parts)
    request = _request(log, path, model)
    live = opener(request)
    part = output.with_name(f"{output.stem}.part.mp4")
    film = FilmWriter(
        part,
        height=live.height,
        width=live.width,
        fps=Fraction(live.fps).limit_denominator(1000),
        scale=viewing_scale(live.height, live.width),
    )
    different: LoggedChunk | None = None
    try:
        for wanted, chunk in _chunks(log, live, kept):
            assert chunk.pixels is not None
            film.write(chunk.pixels[: wanted.shown])
            if different is None and chunk.sha256 != wanted.sha256:
                different = wanted
        film.close()
        shown = picture_record(part, [], decode=False)
        join([part], output, chapters=_chapters(log), metadata=tags_of(log, str(path), shown))
    finally:
        film.abandon()
        part.unlink(missing_ok=True)
    console.print(f"{output}: {film.frames} frames, {film.frames / live.fps:.1f} s.", soft_wrap=True)
    if not check:
        return EXIT_OK
    count = len(log.chunks)
    shown = sum(chunk.shown for chunk in log.chunks)
    for sentence in (
        f"Record: proven. All {count} chunks follow each other; {shown} frames of them were on screen.",
        "Pictures: not checked. A log holds none; give the .mp4 of a recording with --check for its own.",
    ):
        console.print(sentence, soft_wrap=True)
    if different is None:
        console.print("Settings: proven. Made again, its chunks are bit for bit those that were on screen.")
        console.print(f"The same film: all {count} chunks are bit for bit the same.", soft_wrap=True)
        return EXIT_OK
    console.print("Settings: DOES NOT MATCH. Made again, its chunks are others than those that were on screen.")
    console.print(
        f"Not the same film. The first chunk that differs is {different.index} (frame {different.first}). "
        f"{printable(_reasons(log.header, header_of(live)))}",
        soft_wrap=True,
    )
    return EXIT_FAILURE


def _request(log: SessionLog, path: Path, model: str | None) -> EngineRequest:
    header = log.header
    preset = preset_of(header.preset, header.knobs, header.system, str(path))
    for knobs in dict.fromkeys(chunk.controls.knobs for chunk in log.chunks):
        try:
            apply_knobs(preset, dict(knobs))
        except KnobError as error:
            told = shorten(printable(str(error)).rstrip("."), 200)
            raise UsageMistake(f"{path}: its settings cannot be used ({told}). Film it anew.") from None
    return EngineRequest(
        preset=preset,
        model=model_of_record(header.model.name, str(path), model),
        untrained=header.untrained,
        device=header.device,
        threads=header.threads,
        height=header.height,
        width=header.width,
        offline=model is None,
        loras=tuple(header.lora),
        vae=header.vae,
        ema=header.use_ema,
        vram=header.vram,
        attention=header.attention,
        plan=read_memory_plan(header.plan) if header.plan else None,
    )


def _kept_input(log: SessionLog, path: Path, given: str | None) -> KeptInput | None:
    """The pictures that a film was made of, where it was made of some: where the person says, or beside its log.

    Raises:
        UsageMistake: they were not recorded, are not here, or are not those.
    """
    shown = printable(shorten_path(path))
    if made := next((chunk for chunk in log.chunks if chunk.source and not chunk.kept), None):
        raise UsageMistake(
            f"{shown}: its chunk {made.index} was made of a {made.source}, whose pictures nobody kept, so the film "
            "cannot be made again bit for bit. Give a setting, such as seed=7, to film its words alone."
        )
    if not any(_has_pictures(chunk) for chunk in log.chunks):
        if given is not None:
            raise UsageMistake(f"{shown} was made of words alone. Leave out --input.")
        return None
    file = path.parent / KEPT if given is None else Path(given)
    if given is None and not file.is_file():
        raise UsageMistake(f"{shown} was made of pictures that are not here ({KEPT}). Give that file with --input.")
    kept = KeptInput(file)
    for chunk in log.chunks:
        if any(name not in kept for entered in chunk.entered for name in entered.pictures):
            raise UsageMistake(
                f"{printable(shorten_path(file))} does not hold the pictures that chunk {chunk.index} of {shown} was "
                "made of: it is cut, damaged or another film's. Give another copy with --input."
            )
    return kept


def _has_pictures(chunk: LoggedChunk) -> bool:
    return any(entered.pictures for entered in chunk.entered)


def _chunks(log: SessionLog, model: LiveModel, kept: KeptInput | None) -> Iterator[tuple[LoggedChunk, Chunk]]:
    first = log.chunks[0].controls
    stream = FedStream(model, model.new_stream(first.seed, first.knobs), kept)
    for wanted in log.chunks:
        yield wanted, stream.make(wanted)


def _chapters(log: SessionLog) -> tuple[Chapter, ...]:
    starts: list[tuple[int, str]] = []
    for frame, controls in shots_of(log):
        words = in_words(controls.prompt)
        if not starts or starts[-1][1] != words:
            starts.append((frame, words))
    fps = log.header.fps
    return chapters_of([(frame / fps, words) for frame, words in starts], sum(c.shown for c in log.chunks) / fps)


def _reasons(before: Header, now: Header) -> str:
    changed = [
        shorten(f"{name} {old} then, {new} now", 120)
        for name, old, new in (
            *((name, old, now.versions.get(name)) for name, old in before.versions.items()),
            ("CPU", before.machine.get("cpu"), now.machine.get("cpu")),
            ("threads", before.threads, now.threads),
            ("model", before.model.sha256[:12], now.model.sha256[:12]),
        )
        if old != new
    ][:10]
    if not changed:
        return "Machine, versions and model are the same, so this should not be: please report it."
    return f"What changed: {'; '.join(changed)}."
