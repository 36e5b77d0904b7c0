"""Render a script into a film file: the headless job behind `rivulet render`.

Everything a person can get wrong is checked before the model loads; then one loop asks the stream for chunks and hands
them to the film. The stream comes from `open_stream`, so that the job can be tested without a model.
"""

import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from app.errors import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    RenderFailure,
    UsageMistake,
    disk_full,
    explain,
    out_of_memory,
    printable,
    shorten,
)
from app.loading.fitting import let_go
from app.loading.model import Opened, StreamOpener, open_stream
from app.loading.system import plain_system
from app.media.source import SourceLost
from app.media.stills import sink_kind
from app.record import sidecar
from app.record.held import plan_at
from app.record.journal import Header, Journal, RenderHistory, Segment
from app.record.request import RenderRequest, header_of, reconcile
from app.render.beginning import begun_with
from app.render.destination import check_free, check_name
from app.render.from_video import made_of_video
from app.render.interrupt import Interrupt
from app.render.judging import judge
from app.render.memory import Again, as_held, from_here, last_resort, next_plan, short, switched
from app.render.output import Film
from app.render.progress import Progress
from app.render.remains import Remains, examine, finished, take_over
from app.render.results import announce, conclude, finish, say_unknown
from app.script.script import check_script
from pipelines.types import Controls


def render(request: RenderRequest, *, console: Console, opener: StreamOpener = open_stream) -> int:
    """Render a film and return the exit code: 0, or 130 (143, 129) when Ctrl-C (SIGTERM, SIGHUP) ended it early.

    Raises:
        UsageMistake, ValueError, OSError: something the person can put right.
        RenderFailure: the film could not be finished; what there is of it plays from `request.part`.
    """
    _check_texts(request)
    check_name(request)
    if request.resume:
        if told := take_over(request):
            _say(console, request, told)
        if not (request.folder / "journal.jsonl").is_file() and (told := finished(request, None)):
            _say(console, request, told)
            request.part.unlink(missing_ok=True)  # a kill came between the film and this
            if request.folder.is_dir():
                with Journal(request.folder):
                    pass  # an empty one goes when it is closed
            return EXIT_OK
    check_free(request)
    with Journal(request.folder) as journal:
        history = journal.read() if request.resume else None
        if history is not None and (told := finished(request, history)):
            _say(console, request, told)
            journal.remove()
            request.part.unlink(missing_ok=True)
            return EXIT_OK
        if history is None:
            if request.resume and not request.script.shots:
                raise UsageMistake(_nothing_to_resume(request, journal))
            check_script(request.script)
        if request.resume and history is None:
            _say(console, request, f"Nothing to resume beside {request.output}: starting from the beginning.")
        fresh = history is None and not request.part.exists()
        ended = _render(request, journal, history, console, opener, fresh=fresh)
        while isinstance(ended, tuple):
            (request, history), ended = ended, EXIT_FAILURE
            let_go()
            ended = _render(request, journal, history, console, opener, fresh=fresh and history is None)
        return ended


def check_request(request: RenderRequest) -> bool:
    """Check what can be checked without a model, and before anything is made; False where the film is whole already.

    Raises:
        UsageMistake: what the person can put right: texts, sound, the output's name and place.
    """
    _check_texts(request)
    check_name(request)
    if request.resume and not (request.folder / "journal.jsonl").is_file() and finished(request, None):
        return False
    check_free(request)
    return True


def _render(
    request: RenderRequest,
    journal: Journal,
    history: RenderHistory | None,
    console: Console,
    opener: StreamOpener,
    *,
    fresh: bool,
) -> int | tuple[RenderRequest, RenderHistory | None]:
    """An exit code; or what to go on with, where the model has to be held in another way from here on."""
    remains = Remains(())
    if history is not None:
        remains = examine(request.part, request.folder, history, asked=bool(request.script.shots))
        request = reconcile(request, history.header)
        for told in (history.damage, remains.told):
            if told:
                _say(console, request, told)
    held = plan_at(request.plans, remains.segments[-1].chunk if remains.segments else 0)
    if held is not None:
        request = replace(request, engine=replace(request.engine, plan=held))
    with made_of_video(request, opener, lambda text: _say(console, request, text)) as (settled, stream_opener):
        begins = begun_with(settled, stream_opener)
        ended = _film(settled, journal, history, remains, console, begins, fresh=fresh)
    return (ended.of(request), ended.history) if isinstance(ended, Again) else ended


def _film(
    request: RenderRequest,
    journal: Journal,
    history: RenderHistory | None,
    remains: Remains,
    console: Console,
    opener: StreamOpener,
    *,
    fresh: bool,
) -> int | Again:
    seed = secrets.randbelow(2**31) if request.seed == -1 else request.seed
    say = partial(_say, console, request)
    begun = time.perf_counter()
    try:
        opened = opener(request.engine, seed)
        ready = time.perf_counter()
        judged = judge(request, opened)
    except Exception as error:
        if (again := next_plan(error, request, seed, history, say, during="loading")) is not None:
            return again
        if out_of_memory(error):
            raise RenderFailure(f"{short(error)}.{last_resort(error, request, begun=history is not None)}") from error
        raise
    request = as_held(request, opened)
    timeline, fps = judged.timeline, judged.fps
    pictures = sink_kind(request.output) != "mp4"
    header = header_of(request, opened, timeline, fps, seed)
    start = None
    if history is None:
        header = journal.begin(header)
    else:
        _check_same(history.header, header, request.folder)
        try:
            kept = _restore(opened, journal, remains, request, console)
        except Exception as error:
            if (again := next_plan(error, request, seed, history, say, during="loading")) is None:
                raise
            return again
        start = kept[-1] if kept else None
        request, same = from_here(request, start.chunk if start else 0)
        history = history if same else replace(history, expected=())
        header = header.model_copy(update={"config": header.config.model_copy(update={"plans": list(request.plans)})})
        header = journal.go_on(history, kept, header)
    if not request.json_progress:
        announce(console, request, opened, timeline, seed, ready - begun, judged.unknown)
    film = Film(
        request.output if pictures else request.part,
        journal,
        timeline,
        fps=fps,
        scale=request.scale,
        crf=request.crf,
        preset=request.encoder_preset,
        segment_chunks=request.segment_chunks,
        begin=start,
        keep=request.resume,
        name=header.film,
    )
    expected = {} if history is None else {chunk.index: chunk.sha256 for chunk in history.expected}
    switches = {each.chunk for each in request.plans if each.chunk > film.next}
    with Interrupt() as interrupt:
        try:
            first = _shoot(opened, film, request, interrupt, console, expected, switches)
            if film.next in switches and not film.whole and not interrupt.asked:
                film.abandon()
                return switched(request, seed, film.next, journal)
            if not film.fresh and interrupt.lost:
                raise RenderFailure(f"{interrupt.lost}, so there is no film. Give another video.")
            if not film.fresh:
                if fresh:
                    journal.remove()
                _say(console, request, "Nothing was rendered, so no file has changed.")
                return interrupt.code or EXIT_INTERRUPTED
            if not film.whole and film.next <= max(expected, default=-1):
                film.abandon()
                _say(
                    console,
                    request,
                    f"Ended by {interrupt.word} before all was made again that there had been, so {request.output} is "
                    "as it was; --resume goes on.",
                )
                return interrupt.code or EXIT_INTERRUPTED
            film.close()
            done = time.perf_counter()
            timing = sidecar.Timing(
                load=ready - begun,
                first_frame=(first or done) - ready,
                render=done - ready,
                fps=film.fresh / (done - ready),
            )
            status = "whole" if film.whole else f"ended early by {interrupt.word}"
            record = finish(request, header, film, journal, timing, status)
        except BaseException as error:
            if out_of_memory(error) and not film.whole and not interrupt.asked:
                again = next_plan(error, request, seed, journal.read(), say, during="the film")
                if again is not None:
                    film.abandon()
                    return again
            return _stopped(error, request, film, journal, opened, console, fresh=fresh)
        conclude(console, request, record)
        if not request.json_progress:
            say_unknown(console, judged.unknown)  # what was said before the progress has scrolled away
        if not film.whole and not pictures and not interrupt.lost and not request.live:
            return interrupt.code or EXIT_FAILURE
        journal.remove()
        request.part.unlink(missing_ok=True)
        return EXIT_OK if film.whole else interrupt.code or EXIT_FAILURE


def _shoot(
    opened: Opened,
    film: Film,
    request: RenderRequest,
    interrupt: Interrupt,
    console: Console,
    expected: Mapping[int, str],
    switches: Collection[int],
) -> float:
    """Run the loop until the film is whole or stopped, or the model is to be held in another way (at `switches`), and
    return the moment its first frame was in the file."""
    timeline = film.timeline
    progress = Progress(
        console, chunks=timeline.chunks, frames=timeline.frames, done=film.frames, as_json=request.json_progress
    )
    controls = [
        Controls(shot.prompt, shot.transition, dict(shot.parameters).get("guidance_scale")) for shot in timeline.shots
    ]
    first = 0.0
    while not film.whole and not interrupt.asked:
        index, timecode = film.next, timeline.timecode(film.frames)
        film.begin_chunk(opened, at_once=index in switches)
        if index in switches:
            break
        try:
            chunk = opened.stream.next_chunk(controls[timeline.shot_at(index)])
        except SourceLost as lost:
            interrupt.lose(str(lost))
            break
        if expected.get(index, chunk.sha256) != chunk.sha256:
            raise RenderFailure(
                f"Chunk {index} came out differently than before the interruption, so the film would not be one. "
                "Start over with --overwrite."
            )
        record = film.add(chunk, opened.memory())
        first = first or time.perf_counter()
        progress.chunk(timecode, record)
    return first


def _stopped(
    error: BaseException,
    request: RenderRequest,
    film: Film,
    journal: Journal,
    opened: Opened,
    console: Console,
    *,
    fresh: bool,
) -> int:
    """Leave what is whole and say so; a second Ctrl-C is an exit code, everything else goes on as an error."""
    film.abandon()
    if not film.frames or film.path == request.output:
        if fresh:  # what an earlier render left stays
            request.part.unlink(missing_ok=True)
            journal.remove()
        if isinstance(error, OSError):  # it was in order when the render began
            raise RenderFailure(explain(error)[0]) from error
        raise error
    if not request.part.is_file():
        raise RenderFailure(
            f"{request.part} was removed while it was written, so nothing of the film is left. Render it again."
        ) from error
    goes_on = "--resume goes on" if journal.path.is_file() else "its journal is gone, so --overwrite starts over"
    left = f"The first {film.seconds:.1f} s play from {request.part}; {goes_on}."
    if isinstance(error, KeyboardInterrupt):
        _say(console, request, f"Stopped at once. {left}")
        return EXIT_INTERRUPTED
    if out_of_memory(error):
        raise RenderFailure(f"{short(error)}. {left}{last_resort(error, request, begun=True)}") from error
    needed = f" About {film.missing_bytes(opened) / 1e6:.1f} MB more are needed." if disk_full(error) else ""
    raise RenderFailure(f"{explain(error)[0]}{needed} {left}") from error


def _check_same(before: Header, now: Header, folder: Path) -> None:
    """A film goes on only with what it was begun with: anything else would change its pictures in the middle."""
    for name, old, new in (
        ("seed", before.seed, now.seed),
        ("model", before.model.name, now.model.name),
        ("model's checksum", before.model.sha256[:12], now.model.sha256[:12]),
        *((key, value, now.versions.get(key)) for key, value in before.versions.items()),
        ("CPU", before.machine.get("cpu"), now.machine.get("cpu")),
        *(
            (key, _comparable(key, value), getattr(now.config, key))
            for key, value in before.config
            if key not in ("parallel", "plans")  # what they make shows in the chunks that are made again
        ),
    ):
        if old != new:
            # A script is long and of many lines: what is shown of it begins shortly before the first difference.
            texts = [" ".join(printable(str(value)).split()) for value in (old, new)]
            same = max(0, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False))) - 20)
            shown = [f"{'… ' if same else ''}{shorten(text[same:], 60)}" for text in texts]
            raise UsageMistake(
                f"The film in {folder} was begun with {name} {shown[0]}, not {shown[1]}. "
                "Give what it was begun with (or only --resume and --output), or start over with --overwrite."
            )


def _comparable(key: str, value: object) -> object:
    """A setting of a film that was begun, as this version writes it down."""
    return plain_system(cast("dict[str, Any]", value)) if key == "system" else value


def _restore(
    opened: Opened, journal: Journal, remains: Remains, request: RenderRequest, console: Console
) -> tuple[Segment, ...]:
    """Put the stream where the last usable segment begins; returns the segments up to it, () to start over."""
    for number, segment in reversed([*enumerate(remains.segments, 1)]):
        if segment.snapshot is None or segment.sha256 is None:
            continue
        try:
            opened.restore(journal.folder / segment.snapshot, segment.sha256)
        except (ValueError, OSError) as error:
            _say(console, request, f"A snapshot cannot be used ({error}); going back to the one before.")
            continue
        _say(console, request, f"Going on from chunk {segment.chunk}, frame {segment.frames}.")
        return remains.segments[:number]
    _say(console, request, "There is no segment to go on from: starting from the beginning.")
    return ()


def _nothing_to_resume(request: RenderRequest, journal: Journal) -> str:
    if journal.path.exists():
        return (
            f"{journal.path} was cut off in its first line, so what was asked for is lost. "
            "Give the film's prompts and settings together with --resume."
        )
    return f"There is nothing to resume beside {request.output}. Say what to show, or give the film that was begun."


def _say(console: Console, request: RenderRequest, text: str) -> None:
    if not request.json_progress:
        console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


def _check_texts(request: RenderRequest) -> None:
    if request.script.shots or not request.resume:
        check_script(request.script)
    if "\0" in str(request.output):
        raise UsageMistake("The output name holds a NUL byte. Give an ordinary file name such as out.mp4.")
    if request.audio is not None:
        from app.media.audio import check_audio

        check_audio(request.audio)
