"""Results of a render: what it says before it begins, and what lies on the disk when it is done."""

import time
from collections.abc import Mapping
from dataclasses import asdict

from rich.console import Console

from app.atomic import file_hash
from app.errors import RenderFailure, explain, printable
from app.loading.model import Opened
from app.media.join import join
from app.media.source import SourceLost
from app.media.stills import sink_kind
from app.media.subtitles import chapters_of, numbered, write_vtt
from app.record import sidecar
from app.record.journal import Header, Journal
from app.record.pictures import picture_record
from app.record.request import RenderRequest
from app.render.dry_run import unknown_line
from app.render.interrupt import OF_VIDEO
from app.render.output import Film
from app.script.timeline import Timeline
from pipelines.types import Reused, prompt_text


def announce(
    console: Console,
    request: RenderRequest,
    opened: Opened,
    timeline: Timeline,
    seed: int,
    load_seconds: float,
    unknown: Mapping[str, Mapping[str, tuple[str, ...]]],
) -> None:
    """Say what will be made, and name the words the model does not know."""
    lines = [
        f"Preset {request.engine.preset.name}, model {opened.model}, {opened.device}, {opened.threads} threads, "
        f"seed {seed}; loaded in {load_seconds:.1f} s.",
        f"{timeline.frames} frames at {timeline.fps:g} fps = {timeline.frames / timeline.fps:.2f} s, "
        f"{timeline.chunks} chunks:",
    ]
    for number, shot in enumerate(timeline.shots, 1):
        asked = f"asked {shot.requested}, " if shot.requested != shot.actual else ""
        text = printable(prompt_text(shot.prompt))
        lines.append(f'  shot {number}/{len(timeline.shots)}  {asked}begins {shot.actual}  "{text}"')
    lines += [printable(note) for note in request.script.notes]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    say_unknown(console, unknown)


def say_unknown(console: Console, unknown: Mapping[str, Mapping[str, tuple[str, ...]]]) -> None:
    """Name the words of the prompts that the model does not know."""
    for word, near in {word: near for words in unknown.values() for word, near in words.items()}.items():
        console.print(unknown_line(word, near), style="yellow", highlight=False, markup=False, soft_wrap=True)


def finish(
    request: RenderRequest, header: Header, film: Film, journal: Journal, timing: sidecar.Timing, status: str
) -> sidecar.Sidecar:
    """Make the film, its .json, its subtitles and its report out of what was rendered.

    Raises:
        RenderFailure: the film is there, and what belongs beside it is not.
        OSError: the film cannot be written.
    """
    chunks = journal.chunks()
    if len(chunks) != film.next:
        raise RenderFailure(f"{journal.path} was changed while the film was made.")
    begun = time.perf_counter()
    mp4 = sink_kind(request.output) == "mp4"  # pictures have their names already
    # Of a film that ended early only the packets are hashed: whoever stopped it does not wait until it is decoded.
    pictures = picture_record(
        request.part if mp4 else request.output,
        [chunk.shown for chunk in chunks],
        decode=film.whole or not mp4,
        times=request.times,
    )
    timing = timing.model_copy(update={"pictures": time.perf_counter() - begun})
    record = sidecar.Sidecar(
        format=sidecar.FORMAT,
        status=status,
        seed=header.seed,
        config=header.config,
        model=header.model,
        versions=header.versions,
        machine=header.machine,
        film=sidecar.FilmRecord(
            file=request.output.name,
            frames=film.frames,
            seconds=film.seconds,
            fps=film.timeline.fps,
            height=film.height,
            width=film.width,
            scale=film.scale,
            crf=request.crf,
            sha256=sidecar.film_hash(chunks),
        ),
        pictures=pictures,
        shots=sidecar.shot_records(film.timeline),
        chunks=chunks,
        timing=timing,
    )
    chapters = chapters_of(
        [
            (_second(request, film, min(shot.actual.frame, film.frames)), prompt_text(shot.prompt))
            for shot in film.timeline.shots
        ],
        _second(request, film, film.frames),
    )
    told, joined = "metadata" not in header.left_out, None
    if mp4:
        joined = join(
            [request.part],
            request.output,
            chapters=chapters if told else numbered(chapters),
            metadata={
                "title": chapters[0].title,
                "comment": f"Rivulet, preset {header.config.preset}, seed {header.seed}",
                "rivulet": sidecar.carried(record),
            }
            if told
            else {},
            audio=request.audio,
            audio_begin=request.audio_begin,
            times=request.times,
            frames=film.frames,
        )
    file_sha256 = joined.sha256 if joined is not None else file_hash(request.output)
    record = record.model_copy(update={"film": record.film.model_copy(update={"file_sha256": file_sha256})})
    try:
        beside = sidecar.sidecar_path(request.output)
        subtitles = sidecar.beside(request.output, ".vtt")
        if "subtitles" in header.left_out:
            subtitles.unlink(missing_ok=True)  # of the film that this one replaces
        else:
            write_vtt(chapters, subtitles)
        if request.report is not None:
            from app.render import report

            report.write(record, request.output, request.report)
        if request.video is not None and request.video.side_by_side is not None:
            from app.render.side_by_side import write_side_by_side

            path = request.video.side_by_side
            write_side_by_side(request, request.video, request.moments, record.film, path)
        # The last, because it says that the film is whole.
        if "sidecar" in header.left_out:
            beside.unlink(missing_ok=True)
        else:
            sidecar.write(record, beside)
    except (OSError, SourceLost) as error:
        told = explain(error)[0] if isinstance(error, OSError) else f"{error}."
        raise RenderFailure(f"{told} {request.output} is there, what belongs beside it is not.") from error
    return record


def _second(request: RenderRequest, film: Film, frame: int) -> float:
    """When a frame of the film is shown."""
    return frame / film.timeline.fps if request.times is None else float(request.times.second(frame))


def reused(record: sidecar.Sidecar) -> Reused | None:
    """What a feature cache did for the chunks of a film, those from before it was gone on with included."""
    told = [Reused(**chunk.reused.model_dump()) for chunk in record.chunks if chunk.reused is not None]
    return sum(told[1:], told[0]) if told else None


def reuse_line(name: str, sum_: Reused) -> str:
    """The same in a sentence; `name` is the cache's."""
    share = sum_.layers / max(1, sum_.of_layers)
    if not sum_.layers:
        return f"{name} used nothing again in {sum_.of_passes:,} passes: nothing was alike enough."
    return (
        f"{name} used features again in {sum_.passes:,} of {sum_.of_passes:,} passes and spared {sum_.layers:,} of "
        f"{sum_.of_layers:,} layers ({100 * share:.0f} %)."
    )


def conclude(console: Console, request: RenderRequest, record: sidecar.Sidecar) -> None:
    """Say what was made; as JSON for programs."""
    film, again = record.film, reused(record)
    if request.json_progress:
        done = {"event": "done", "status": record.status, "film": film.model_dump(), "seed": record.seed}
        if again is not None:
            done["reused"] = asdict(again)
        print(sidecar.one_line(done), file=console.file, flush=True)
        return
    size = f"{film.width * film.scale}x{film.height * film.scale}"
    enlarged = f" ({film.width}x{film.height} enlarged {film.scale} times)" if film.scale > 1 else ""
    over = sink_kind(request.output) != "mp4" or request.live or record.status.startswith(f"ended early by {OF_VIDEO}")
    goes_on = "" if over else "; the same command with --resume goes on"
    early = "" if record.status == "whole" else f" ({record.status}{goes_on})"
    report = f" Report: {request.report}." if request.report is not None else ""
    beside = sidecar.sidecar_path(request.output)
    proof = f"; settings, seed and chunk hashes in {beside}" if beside.is_file() else ""
    size += enlarged
    size += f", {request.output.stat().st_size / 1e6:.1f} MB" if request.output.is_file() else ""
    spared = "" if again is None else f"\n{reuse_line(request.engine.preset.feature_cache, again)}"
    console.print(
        f"{request.output}: {film.seconds:.2f} s{early}, {film.frames} frames, {size}; "
        f"first frame after {record.timing.first_frame:.2f} s, {record.timing.fps:.1f} fps end to end.\n"
        f"Frames sha256 {film.sha256}{proof}.{report}{spared}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
