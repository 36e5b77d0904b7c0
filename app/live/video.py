"""Source of a live film: the pictures of a page that its next chunk is made of, and what is decided about them.

A page's camera, screen or file comes and goes while the film plays. Messages and pictures arrive on other threads; the
engine asks once a chunk, and has the pictures of the moments that end then. Where none come, the film goes on from
its words.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING

from app.live.beginning import Beginning, Gathering
from app.live.input_log import InputLog
from app.live.messages import Problem
from app.live.picture_header import Upload
from app.live.pictures import BadPicture, Kept, PictureMark, Pictures
from app.live.source_messages import (
    BeginningSet,
    BeginningState,
    PictureTaken,
    Shows,
    SourceFigures,
    SourceSet,
    SourceState,
)
from app.media.fit import Fit
from app.media.source import OPEN_SECONDS
from app.record.feeding import chunk_of
from app.record.kept_input import InputWriter
from app.record.session_log import MadeOf
from pipelines.deadline import Choice, DeadlineController, ladder
from pipelines.types import Chunk, Controls

if TYPE_CHECKING:
    from pydantic import BaseModel

    from app.live.player import Viewer
    from app.loading.live import LiveModel, LiveStream
    from pipelines.video import Decision, Shown

_REMEMBERED = 20
"""Chunks over which the share of skipped ones is told."""
_AHEAD = 2
"""Chunks for which pictures are kept: what a chunk shows, and those that come faster than it shows them."""


@dataclass(frozen=True, slots=True)
class VideoChunk:
    """A chunk of the film, the pictures that its frames were made of, in order, and what those were of.

    There are none where it came from words, and no marks of what a film begins with.
    """

    chunk: Chunk
    marks: tuple[PictureMark, ...] = ()
    source: MadeOf | None = None


@dataclass(frozen=True, slots=True)
class _Source:
    asked: SourceSet
    viewer: Viewer
    pictures: Pictures


class FilmVideo:
    """Of one film.

    Args:
        model: what makes it.
        clock: seconds that only go forward.
        tell: tells all who watch.
        ask: has the film begin anew with pictures that have come; on any thread.
        kept: keeps what enters, where that is asked for.

    Attributes:
        log: what entered the newest chunk beside words.
        beginning: the pictures that the film begins with, where those are not words alone; of the engine thread.
    """

    def __init__(
        self,
        model: LiveModel,
        clock: Callable[[], float],
        tell: Callable[[BaseModel], object],
        ask: Callable[[Beginning], object],
        kept: InputWriter,
    ) -> None:
        self._model, self._clock, self._tell, self._ask, self._kept = model, clock, tell, ask, kept
        self.log = InputLog(kept)
        kept.trouble = self._unrecorded
        self._lock = Lock()
        self._source: _Source | None = None
        self._ready: deque[VideoChunk] = deque()
        self._marks: deque[PictureMark] = deque()
        self._skips: deque[bool] = deque(maxlen=_REMEMBERED)
        self._controller: tuple[tuple[float, float, int], DeadlineController] | None = None
        self._choice: Choice | None = None
        self._decisions: list[Decision] = []
        self._said = ""
        self._kind: Shows | None = None
        self._gathering: tuple[Viewer, Gathering] | None = None
        self.beginning: Beginning | None = None

    # ------------------------------------------------------------------ any thread

    def choose(self, asked: SourceSet, viewer: Viewer) -> None:
        """What the film is made of from its next chunk on.

        Raises:
            ValueError: this model or preset takes no pictures.
        """
        if asked.kind == "none":
            self.end("")
            return
        if self._model.no_video:
            raise ValueError(self._model.no_video)
        with self._lock:
            before = self._source
            if asked.record and not (before is not None and before.asked.record):
                self._kept.again()
            about = None if before is None else (before.viewer, before.asked.number, before.asked.fit)
            if before is not None and about == (viewer, asked.number, asked.fit):
                source = replace(before, asked=asked)
                source.pictures.hold = asked.hold
            else:
                source = _Source(asked, viewer, self._pictures(asked, viewer))
            self._source = source
        if before is not None and before.pictures is not source.pictures:
            before.pictures.close()
        self._tell(self.state)

    def offer(self, upload: Upload, viewer: Viewer) -> None:
        """A picture, if it is of the source in force; never blocks."""
        with self._lock:
            source, gathering = self._source, self._gathering
        if gathering is not None and gathering[0] is viewer and gathering[1].asked.number == upload.source:
            gathering[1].offer(upload)
        elif source is not None and source.viewer is viewer and source.asked.number == upload.source:
            source.pictures.offer(upload)

    def gather(self, asked: BeginningSet, viewer: Viewer) -> None:
        """The film begins anew with the pictures that come next; what another beginning has sent so far is dropped.

        Raises:
            ValueError: this model or preset takes no pictures, or not so many.
        """
        if self._model.no_video:
            raise ValueError(self._model.no_video)

        def done(made: Beginning | BadPicture) -> None:
            self._gathered(gathering, made)

        def taken(seq: int) -> None:
            viewer.tell(PictureTaken(source=asked.number, seq=seq))

        gathering = Gathering(self._model, asked, self._clock, taken, done)
        with self._lock:
            before, self._gathering = self._gathering, (viewer, gathering)
        if before is not None:
            before[1].close()

    def _gathered(self, gathering: Gathering, made: Beginning | BadPicture) -> None:
        """All pictures of a beginning have come, or it cannot be."""
        with self._lock:
            mine = self._gathering is not None and self._gathering[1] is gathering
            viewer = self._gathering[0] if self._gathering is not None and mine else None
            self._gathering = None if mine else self._gathering
        if viewer is None:
            return
        if isinstance(made, Beginning):
            self._ask(made)
            return
        viewer.tell(_not_begun(gathering.asked, f"{made} The film goes on as it was."))

    def end(self, why: str) -> None:
        """The film is made of words again; `why`, where nobody asked for it."""
        with self._lock:
            source, self._source = self._source, None
        if source is not None:
            source.pictures.close()
            self._tell(SourceState(kind="none", number=source.asked.number, message=why))

    def left(self, viewer: Viewer) -> None:
        """Somebody does not watch any more, and shows nothing any more."""
        with self._lock:
            shows = self._source is not None and self._source.viewer is viewer
            gathering = self._gathering if self._gathering is not None and self._gathering[0] is viewer else None
            self._gathering = None if gathering is not None else self._gathering
        if gathering is not None:
            gathering[1].close()
        if shows:
            self.end("Whoever showed it has gone.")

    @property
    def state(self) -> SourceState:
        """What the film is made of."""
        with self._lock:
            source = self._source
        if source is None:
            return SourceState(kind="none")
        asked = source.asked
        return SourceState(
            kind=asked.kind,
            number=asked.number,
            strength=asked.strength,
            hold=asked.hold,
            latency=asked.latency,
            record=asked.record,
        )

    def _unrecorded(self, why: str) -> None:
        """Nothing is kept any more; on any thread."""
        with self._lock:
            source = self._source
            if source is not None:
                self._source = replace(source, asked=source.asked.model_copy(update={"record": False}))
        self._tell(Problem(message=why, action="Make room, and tick it again.", code="recording"))
        self._tell(self.state)

    def _pictures(self, asked: SourceSet, viewer: Viewer) -> Pictures:
        def refused(error: BadPicture, last: bool) -> None:
            if last:
                self.end(f"None of its pictures can be read. {error}")
            else:
                viewer.tell(Problem(message=str(error), action="It is left out.", code="picture"))

        model = self._model
        return Pictures(
            Fit(model.height, model.width, asked.fit),
            room=model.chunk_frames * _AHEAD,
            clock=self._clock,
            taken=lambda seq: viewer.tell(PictureTaken(source=asked.number, seq=seq)),
            refused=refused,
            hold=asked.hold,
        )

    # ------------------------------------------------------------------ the engine thread

    def make(self, stream: LiveStream, controls: Controls) -> VideoChunk | None:
        """Make the next chunk of the film of what it begins with or the source shows now; None: of words.

        When a source ends, what is still on its way to the screen comes first.
        """
        self._decisions = []
        self.log.begin_chunk()
        if self.beginning is not None and not stream.begun:
            self._begin(stream, controls, self.beginning)
        source = self._source_now()
        newest = None if source is None else source.pictures.newest
        if source is None or newest is None:
            return self._from_words(stream, controls)
        asked = source.asked
        if stream.wants is None:
            self.log.note("open", [newest.came], record=asked.record)
            self._ready += [VideoChunk(chunk) for chunk in stream.open_video(newest.pixels, controls)]
        while not self._ready:
            assert stream.wants is not None  # it is open
            kept = source.pictures.take(stream.wants, 1 / self._model.fps, self._clock())
            if not kept:  # closed meanwhile
                return self._from_words(stream, controls)
            self._enter(stream, kept, controls, asked)
        self._told(source)
        return self._ready.popleft()

    def made(self, seconds: float) -> None:
        """The newest chunk of a source took so long, all in all."""
        if self._controller is not None and not (self._skips and self._skips[-1]):
            self._choice = self._controller[1].decide(seconds)

    def told(self) -> list[tuple[str, Mapping[str, float | str | bool]]]:
        """What was decided about the newest chunk, for the film's log: all but the noise, which every chunk gets anew,
        and of the latency what changed."""
        lines: list[tuple[str, Mapping[str, float | str | bool]]] = [
            (decision.kind, decision.data) for decision in self._decisions if decision.kind != "noise"
        ]
        if self._choice is not None and self._choice.said != self._said:
            self._said = self._choice.said
            lines.append(("latency", self._choice.as_data()))
        return lines

    def forget(self) -> None:
        """The film goes on from another moment: what was on its way is of the one that is left."""
        self._ready.clear()
        self._marks.clear()
        self.log.forget()

    def _begin(self, stream: LiveStream, controls: Controls, beginning: Beginning) -> None:
        self.log.note("begin", beginning.pictures, record=True, parts=tuple(beginning.parts))
        made = stream.begin_with(beginning.frames, controls, beginning.parts)
        self._ready += [VideoChunk(chunk, source=beginning.source) for chunk in made]
        self._tell(BeginningState(number=beginning.asked.number, name=beginning.asked.name, begun=True))

    def _enter(self, stream: LiveStream, kept: Sequence[Kept], controls: Controls, asked: SourceSet) -> None:
        import numpy as np

        self._marks += [each.mark for each in kept]
        steps = self._steps(asked, stream.levels)
        self.log.note(
            "pictures", [each.came for each in kept], record=asked.record, strength=asked.strength, steps=steps
        )
        shown = stream.enter(
            np.stack([each.pixels for each in kept]), replace(controls, strength=asked.strength), steps
        )
        self._kind = None if asked.kind == "none" else asked.kind
        self._decisions = stream.decisions
        self._skips.append(any(decision.kind == "skip" for decision in self._decisions))
        self._ready += [self._piece(piece, controls) for piece in shown]

    def _piece(self, piece: Shown, controls: Controls) -> VideoChunk:
        marks = tuple(self._marks.popleft() for _ in range(min(len(piece.pixels), len(self._marks))))
        return VideoChunk(chunk_of(piece, controls), marks, self._kind if marks else None)

    def _from_words(self, stream: LiveStream, controls: Controls) -> VideoChunk | None:
        self._controller = self._choice = None
        if stream.wants is not None:
            self.log.note("leave")
            self._ready += [self._piece(piece, controls) for piece in stream.leave_video(controls)]
            self._marks.clear()
        return self._ready.popleft() if self._ready else None

    def _source_now(self) -> _Source | None:
        """The source in force, unless whoever shows it may do so no more, or shows nothing; a beginning likewise."""
        with self._lock:
            source, gathering = self._source, self._gathering
        if gathering is not None and gathering[1].silent(self._clock()) > OPEN_SECONDS:
            gathering[1].close()
            self._gathered(gathering[1], BadPicture(f"No picture has come for {OPEN_SECONDS:g} s."))
        if source is not None and not source.viewer.driver:
            self.end("Somebody else has the controls now.")
            return None
        if source is not None and source.pictures.silent(self._clock()) > OPEN_SECONDS:
            self.end(f"It has sent nothing for {OPEN_SECONDS:g} s.")
            return None
        return source

    def _steps(self, asked: SourceSet, levels: tuple[float, ...]) -> int | None:
        """The most passes that a chunk may take, where a latency was asked for."""
        if asked.latency is None:
            self._controller = self._choice = None
            return None
        model = self._model
        passes = 1 + sum(level < 1000 * asked.strength for level in levels)
        about = (asked.latency, asked.strength, passes)
        if self._controller is None or self._controller[0] != about:
            rungs = ladder(passes, [(model.height, model.width)], model.fps, slowest=model.fps)
            controller = DeadlineController(rungs, asked.latency, chunk=model.chunk_frames, lanes=model.lanes)
            self._controller = about, controller
        return self._controller[1].rung.steps

    def _told(self, source: _Source) -> None:
        found = [decision.data for decision in self._decisions if decision.kind == "noise"]
        noise: Mapping[str, float] = found[0] if found else {}
        choice = self._choice
        self._tell(
            SourceFigures(
                share=noise.get("share"),
                motion=noise.get("motion"),
                steps=None if self._controller is None else self._controller[1].rung.steps,
                skipped=bool(self._skips and self._skips[-1]),
                skips=sum(self._skips) / len(self._skips) if self._skips else 0.0,
                replaced=source.pictures.replaced,
                said="" if choice is None else choice.said,
                reached=None if choice is None else choice.reached,
            )
        )


def _not_begun(asked: BeginningSet, why: str) -> BeginningState:
    return BeginningState(number=asked.number, name=asked.name, begun=False, message=why)
