"""Films made of a video: the request gets the video's length and times, the stream its pictures.

The job that films them is the one that films words (app/render/render.py): from here it gets a request whose length,
frame rate, sound and shots are settled, and a stream that takes pictures of the video for every chunk it makes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from app.atomic import file_hash
from app.config.lengths import FASTEST_FPS, LONGEST_SECONDS, Length
from app.config.readers import FITS, choose, latency_seconds
from app.config.settings import Settings
from app.errors import RenderFailure, UsageMistake, printable, shorten_path
from app.loading.engine_request import EngineRequest
from app.loading.model import Opened, StreamOpener, rhythm_of
from app.media.files import FileSource, VideoFile, survey
from app.media.fit import Fit
from app.media.inputs import is_live, live_source
from app.media.reader import NEWEST, QUEUED, FileFeed, LiveFeed, PictureFeed, Reader
from app.media.times import Times
from app.record.request import RenderRequest
from app.record.video import VideoRequest
from app.render.latency import HeldLatency
from pipelines.types import Chunk, Controls

if TYPE_CHECKING:
    from pipelines.video import VideoInput

_WORTH_TELLING = 1.0
"""Seconds of a live source that may be left out without a word."""
Feeds = Callable[[int, int, int], PictureFeed]
"""Opens what pictures come from, given their height and width, and how many were taken before."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which pictures of a file a film shows: its moments, in ticks, and the film's rate; `times` where it varies."""

    moments: Sequence[int]
    fps: Fraction
    times: Times | None


def video_request(settings: Settings, rate: Fraction | None = None) -> VideoRequest:
    """What the settings ask for, of their `input`; `rate` pictures a second are taken of it, or every one.

    Raises:
        UsageMistake: there is no input, or a latency for a file.
    """
    if settings.input is None:
        raise UsageMistake("There is no video. Say what to make the film of, for example input=in.mp4.")
    if settings.latency is not None and not is_live(settings.input):
        raise UsageMistake("--latency is for cameras, streams and screens: a file waits for its film. Leave it out.")
    return VideoRequest(
        input=settings.input,
        strength=settings.strength,
        fit=choose(settings.fit, FITS, "fit"),
        turn=settings.rotate,
        rate=rate,
        sound=settings.sound,
        side_by_side=None if settings.side_by_side is None else Path(settings.side_by_side),
        latency=None if settings.latency is None else latency_seconds(settings.latency),
    )


@contextmanager
def made_of_video(
    request: RenderRequest, opener: StreamOpener, tell: Callable[[str], object]
) -> Generator[tuple[RenderRequest, StreamOpener]]:
    """Settle a request by the video that it names, and open streams that are made of it; the rest stays as it is.

    Args:
        request: what is to be filmed.
        opener: loads a model and builds its stream.
        tell: takes a sentence for people, at the end.

    Raises:
        UsageMistake: the video cannot be read, is another one than it has to be, or is shorter than what is asked for.
    """
    if request.video is None:
        yield request, opener
        return
    if is_live(request.video.input):
        with _made_live(request, request.video, opener, tell) as made:
            yield made
        return
    with ExitStack() as open_sources:
        file, sha256 = _surveyed(request.video)
        sampling = sampling_of(file, request.video.rate)
        settled = _settled(request, replace(request.video, sha256=sha256), file, sampling)
        assert settled.length is not None
        shown, how, turn = sampling.moments[: int(settled.length.amount)], request.video.fit, request.video.turn
        strength = request.video.strength

        def feed(height: int, width: int, begin: int) -> PictureFeed:
            source = FileSource(file, Fit(height, width, how, turn), shown)
            source.skip(begin)
            reader = Reader(source, room=QUEUED, newest=False, progress=lambda: source.decoded)
            return FileFeed(open_sources.enter_context(reader))

        def open_stream(request: EngineRequest, seed: int) -> Opened:
            opened = opener(replace(request, video=True), seed)
            film = FilmOfVideo(opened, feed, strength, frames=len(shown))
            return replace(opened, stream=film, save=film.save, restore=film.restore)

        yield settled, open_stream


@contextmanager
def _made_live(
    request: RenderRequest, video: VideoRequest, opener: StreamOpener, tell: Callable[[str], object]
) -> Generator[tuple[RenderRequest, StreamOpener]]:
    """The same of a live source: as long as is asked for, or until somebody ends it."""
    if request.resume:
        raise UsageMistake("What a live source showed has gone, so its film cannot go on. Leave out --resume.")
    if video.side_by_side is not None:
        raise UsageMistake("--side_by_side needs a video that can be read again. Leave it out for a live source.")
    length = request.length or request.script.end
    if length is None and len(request.script.shots) > 1 and any(shot.at is None for shot in request.script.shots[1:]):
        raise UsageMistake("Prompts share the film's length, and a live film has none. Give --duration, or times.")
    length = length or Length(LONGEST_SECONDS, "s")
    settled = replace(request, length=length, video=replace(video, sha256=""))
    with ExitStack() as open_sources:
        feeds: list[LiveFeed] = []

        def open_stream(request: EngineRequest, seed: int) -> Opened:
            opened = opener(replace(request, video=True), seed)
            rate = settled.fps or Fraction(opened.fps)

            def feed(height: int, width: int, begin: int) -> PictureFeed:
                source = live_source(video.input, Fit(height, width, video.fit, video.turn))
                feeds.append(LiveFeed(open_sources.enter_context(Reader(source, room=NEWEST, newest=True)), rate))
                return feeds[-1]

            hold = None
            if (latency := video.latency) is not None:
                hold = partial(HeldLatency, latency, rate=rate, strength=video.strength)
            film = FilmOfVideo(opened, feed, video.strength, frames=None, hold=hold, tell=tell)
            return replace(opened, stream=film, save=film.save, restore=film.restore)

        yield settled, open_stream
        skipped = sum(feed.skipped for feed in feeds)
        if skipped > _WORTH_TELLING:
            tell(
                f"This machine was slower than the source: {skipped:.1f} s of it are not in the film. Fewer steps or a "
                "lower --fps keep up."
            )


def sampling_of(file: VideoFile, rate: Fraction | None) -> Sampling:
    """Which pictures of a file a film shows: all at their own times, or `rate` a second."""
    if rate is not None:
        return Sampling(file.sampled(rate), rate, None)
    average = min(max(len(file.ticks) / file.seconds, Fraction(1)), Fraction(FASTEST_FPS)).limit_denominator(1001)
    if file.rate is not None and 1 <= file.rate <= FASTEST_FPS and file.rate == file.rate.limit_denominator(1001):
        return Sampling(file.ticks, file.rate, None)
    return Sampling(file.ticks, average, Times(file.tick, [*file.ticks, file.end]))


class FilmOfVideo:
    """A stream whose every chunk is made of the next pictures of a video.

    Args:
        opened: a stream that is open for video.
        feed: opens where the pictures come from.
        strength: how much of them is given up to the prompt.
        frames: how many pictures there are; None of a live source.
        hold: makes what holds a latency, of the way in; None: nothing is held.
        tell: takes what that says, a sentence for people.
    """

    def __init__(
        self,
        opened: Opened,
        feed: Feeds,
        strength: float,
        *,
        frames: int | None,
        hold: Callable[[VideoInput], HeldLatency] | None = None,
        tell: Callable[[str], object] = lambda text: None,
    ) -> None:
        self._opened, self._feed, self._strength, self._frames = opened, feed, strength, frames
        self._input: VideoInput | None = None
        self._pictures: PictureFeed | None = None
        self._ready: deque[Chunk] = deque()
        self._hold, self._tell = hold, tell
        self._held: HeldLatency | None = None

    def next_chunk(self, controls: Controls, *, decode: bool = True) -> Chunk:
        """Make the next chunk.

        Raises:
            SourceLost: the video broke off.
        """
        if not decode:
            raise ValueError("a film of a video has pictures: call next_chunk with decode=True")
        video = self._video()
        controls = replace(controls, strength=self._strength)
        while not self._ready:
            entered = video.stream.state.video.entered
            left = video.wants if self._frames is None else self._frames - entered
            if self._pictures is None:
                self._pictures = self._feed(*video.size, entered)
            pushes = left > 0
            pictures = self._pictures.take(min(video.wants, left)) if pushes else None
            begun = time.perf_counter()
            shown = video.finish(controls) if pictures is None else video.push(pictures, controls)
            made = [piece.chunk for piece in shown if piece.chunk is not None]
            self._ready += self._decided(made, time.perf_counter() - begun)
            if not pushes and not self._ready:
                raise RenderFailure("The video has ended, and not all of its pictures came back. Please report it.")
        return self._ready.popleft()

    def save(self, path: Path) -> str:
        """Write the stream's state and return its sha256; "" where chunks are waiting that it does not hold."""
        return "" if self._ready else self._opened.save(path)

    def restore(self, path: Path, sha256: str) -> None:
        """Go back to a state; the video goes on where that stands."""
        self._opened.restore(path, sha256)
        self._input = self._pictures = None
        self._ready.clear()

    def _video(self) -> VideoInput:
        if self._input is None:
            assert self._opened.video_input is not None  # the engine request asked for it
            self._input = self._opened.video_input()
            self._held = None if self._hold is None else self._hold(self._input)
        if self._held is not None:
            self._input.steps = self._held.steps
        return self._input

    def _decided(self, made: list[Chunk], seconds: float) -> list[Chunk]:
        """The chunks that were made in so many seconds, with what that changes about the next ones."""
        if self._held is None or not made:
            return made
        last = self._held.made(made[-1], seconds)
        if last.said:
            self._tell(last.said)
        return [*made[:-1], last]


def _surveyed(video: VideoRequest) -> tuple[VideoFile, str]:
    path = Path(video.input)
    file = survey(path)
    sha256 = file_hash(path)
    if video.sha256 not in ("", sha256):
        raise UsageMistake(
            f"{printable(shorten_path(path))} is not the video that the film was begun with. Put that one back, or "
            "start over with --overwrite."
        )
    return file, sha256


def _settled(request: RenderRequest, video: VideoRequest, file: VideoFile, sampling: Sampling) -> RenderRequest:
    """The request with the video's length, rate and sound, and its shots where they begin in its own times."""
    script, times, count = request.script, sampling.times, len(sampling.moments)
    asked = request.length or script.end
    frames = count if asked is None else _frames(asked, request, sampling)
    if frames > count and request.length is not None:
        raise UsageMistake(
            f"{printable(shorten_path(file.path))} lasts {float(file.seconds):.2f} s ({count} pictures), and a film of "
            "it cannot be longer. Give a shorter --duration, or none."
        )
    if frames > count:
        script = replace(script, notes=(*script.notes, "The video ends before the script does, and the film with it."))
    if times is not None:
        shots = [
            shot
            if shot.at is None or shot.at.unit != "s"
            else replace(shot, at=Length(times.picture(shot.at.amount), "f"))
            for shot in script.shots
        ]
        script = replace(script, shots=tuple(shots))
    if video.sound and file.sound is None:
        script = replace(script, notes=(*script.notes, "The video's sound cannot be decoded and is left out."))
    own = video.sound and file.sound and request.audio in (None, file.path.absolute())
    return replace(
        request,
        script=script,
        video=video,
        length=Length(min(frames, count), "f"),
        fps=sampling.fps,
        times=times,
        moments=sampling.moments,
        audio=file.path.absolute() if own else request.audio,
        audio_begin=file.start if own else None,
    )


def _frames(length: Length, request: RenderRequest, sampling: Sampling) -> int:
    """How many pictures a length is; one more than there are where it is longer than the video."""
    if length.unit == "s" and sampling.times is not None:
        end = sampling.times.second(len(sampling.moments))
        return sampling.times.picture(length.amount) + (length.amount > end + Fraction(1, 100))
    return length.frames(float(sampling.fps), rhythm_of(request.engine.preset))
