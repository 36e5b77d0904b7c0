"""One live film: what viewers ask of it on any thread, and what the engine does with it on its own.

A message changes plans (app/course.py) or waits for the engine; only `step`, `park` and `end`, which the engine
thread calls, touch the stream.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from app.audition import Auditions
from app.autosave import Autosave
from app.course import Course
from app.encode import LiveFrame as LiveFrame
from app.encode import Receipt, Screen, Viewer
from app.errors import explain, out_of_memory
from app.live_film import LiveFilm, Refused, Studio, latent_of
from app.pace import Pace
from app.parked import Parked, forget_parked, mark_parked, write_parked
from app.recorder import Recorder
from app.session_facts import hello_of, metrics_of, place_of, slow_of, unknown_words
from app.take import Moment
from app.wire import (
    Accepted,
    Ack,
    ClientMessage,
    Do,
    Done,
    Hello,
    Problem,
    PromptUpdate,
    QueueEdit,
    QueueItem,
    QueueState,
    SessionStart,
    Set,
    State,
    Stop,
    Track,
)

if TYPE_CHECKING:
    from pydantic import BaseModel


GRACE = 5.0
"""Seconds without a viewer after which a session is parked."""
CREDIT_SECONDS = 1.0
"""A viewer that had credit this lately is watching: on a slow link it has none at most moments."""
_REPORT_SECONDS = 0.5
_REFRESH_SECONDS = 10.0
_LATE = 0.001

_log = logging.getLogger(__name__)


class Session:
    """A live film.

    Args:
        session_id: its name, and its folder's.
        studio: what it shares with others.
        folder: where its log and what it saves go.
        moment: what it begins with.
        parked: where it went on to, if it is taken up again.

    Attributes:
        folder: as given.
        screen: what is shown.
        epoch: how often the picture began anew.
        refresh_on_drift: the drift at which the memory is made anew.
    """

    def __init__(
        self, session_id: str, studio: Studio, folder: Path, moment: Moment, parked: Parked | None = None
    ) -> None:
        model = studio.model
        self.id, self.studio, self.folder = session_id, studio, folder
        self.fps, self.width, self.height = model.fps, model.width, model.height
        self.state: State = "playing"
        self.over = False
        folder.mkdir(parents=True, exist_ok=True)
        self.screen = Screen(
            model.fps,
            Recorder(folder, model.fps, self.tell),
            studio.clock,
            seq=0 if parked is None else parked.seq_from,
        )
        self.course = Course(moment, model.fps, model.rhythm)
        self.film = LiveFilm(studio, folder, self.course)
        self.pace = Pace(model.chunk_frames / model.fps)
        self.auditions = Auditions(self.course, self.film, self.pace, self.screen.recorder, self.tell)
        self.refresh_on_drift: float | None = None
        self._autosave = Autosave(folder, studio.clock)
        self._tasks: deque[Do | SessionStart | Stop] = deque()
        self.epoch = 0
        self._new_picture = False  # the next chunk takes the screen at once
        self._rested = True
        self._unwatched_since = self._credit_at = studio.clock()
        self._report_at = self._refreshed_at = 0.0
        if parked is not None:
            self._take_up(parked)

    # ------------------------------------------------------------------ any thread

    def attach(self, viewer: Viewer) -> None:
        """Somebody watches."""
        with self.course.lock:
            self.screen.viewers = (*self.screen.viewers, viewer)
        viewer.tell(Track(branch=self.film.branch, spans=self.course.spans()))
        self.studio.wake()

    def detach(self, viewer: Viewer) -> None:
        """And does no more."""
        with self.course.lock:
            self.screen.viewers = tuple(other for other in self.screen.viewers if other is not viewer)
            self._unwatched_since = self.studio.clock()
        self.studio.wake()

    def expect(self) -> None:
        """Somebody is about to watch."""
        self._unwatched_since = self.studio.clock()

    def hello(self, viewer: Viewer) -> Hello:
        """What a viewer has to know first; the server adds the tokens."""
        return hello_of(self, viewer)

    def submit(self, message: ClientMessage, viewer: Viewer | None = None) -> None:
        """Take a message of whoever drives.

        Raises:
            ValueError: it asks for something that cannot be.
        """
        if self.over or isinstance(message, Ack):
            return
        if isinstance(message, PromptUpdate):
            self._say(message, viewer)
        elif isinstance(message, QueueEdit):
            self._line_up(message.items)
        elif isinstance(message, Set):
            self._set(message)
        elif isinstance(message, Stop | SessionStart):
            self._tasks.append(message)
        else:
            self._do(message, viewer)
        self._autosave.soon()
        self.studio.wake()

    def latest_jpeg(self) -> bytes | None:
        """The frame on screen."""
        return self.screen.latest

    def tell(self, event: BaseModel) -> None:
        """Tell every viewer."""
        for viewer in self.screen.viewers:
            viewer.tell(event)

    def report(self, now: float) -> float:
        """Tell viewers how it goes, twice a second, and return when next; on the encode thread."""
        if now < self._report_at:
            return self._report_at
        self._report_at = now + _REPORT_SECONDS
        metrics = metrics_of(self, now)
        for viewer in self.screen.viewers:
            viewer.tell(metrics.model_copy(update={"dropped": getattr(viewer, "dropped", 0)}))
        return self._report_at

    # ------------------------------------------------------------------ the engine thread

    def due(self, now: float) -> float | None:
        """When the next chunk has to be begun; None: nobody waits for one."""
        if self._tasks:
            return now
        if self.state != "playing" or not self._watched(now):
            self._rested = True
            return now if self._autosave.urgent else None
        if self._new_picture or self.course.sudden:
            return now
        if self.screen.stocked:
            return None
        return now if self.auditions.wait else self._latest(now)

    def spare(self, now: float) -> float:
        """For how many seconds the engine may do something else."""
        return float("inf") if self.state != "playing" or self._rested else self._latest(now) - now

    def forsaken(self, now: float) -> bool:
        """Whether nobody has watched or recorded for so long that it should be parked."""
        alone = not self.screen.viewers and not self.screen.recorder.recording
        return alone and now - self._unwatched_since >= GRACE

    def step(self) -> int:
        """Do what waits, and make the next chunk; returns how many were made."""
        now, asked, made = self.studio.clock(), bool(self._tasks), self.film.made
        try:
            while self._tasks:
                self._carry_out(self._tasks.popleft())
            if not self.over and self._autosave.due(now):
                self._autosave.save(self.film.copy(), place_of(self, running=True))
            if not self.over and self.state == "playing" and (asked or self._watched(now)):
                self._make()
        except Exception as error:
            _log.exception("session %s has failed", self.id)
            code = "memory" if out_of_memory(error) else "engine"
            self.tell(Problem(message=explain(error)[0], action="Reload the page to begin another film.", code=code))
            self.end("error")
        return self.film.made - made

    def park(self) -> None:
        """Write everything to the folder; the session is over in this process."""
        self.film.lost(self.screen.clear())
        self._autosave.close()
        write_parked(self.folder, self.film.copy().save, place_of(self, running=False))
        self._close("parked")
        self.tell(Done(reason="parked"))

    def end(self, reason: str) -> None:
        """The film is over, and its place on the disk forgotten unless `reason` is "parked"; once."""
        if self.over:
            return
        self.film.lost(self.screen.clear())
        self._autosave.close()
        if reason != "parked":
            forget_parked(self.folder)
        self._close("stopped")
        self.tell(Done(reason=reason))

    # ------------------------------------------------------------------ messages

    def _say(self, message: PromptUpdate, viewer: Viewer | None) -> None:
        now = self.studio.clock()
        with self.course.lock:
            if message.queue:
                item = QueueItem(id=message.id, prompt=message.prompt, hold=message.hold, transition=message.transition)
                others = [other for other in self.course.queue if other.id != message.id]
                self.course.line_up([*others, item], now)
                frame = self.course.queued_start(len(others))
                chunk = max(self.course.upcoming, self.studio.model.rhythm.chunk_of(latent_of(frame)))
                at = now + max(0.0, (frame - self.screen.frame) / self.fps)
            else:
                receipt = Receipt(message.id, now)
                self.course.say(message.of_engine(), message.transition.of_engine(), message.hold, receipt)
                chunk = self.course.upcoming
                at = max(now + self.pace.lead(switching=True) - self.pace.margin, self.screen.deadline(now))
        if viewer is not None:
            unknown = unknown_words(self.studio.model, message.of_engine())
            viewer.tell(Accepted(id=message.id, chunk=chunk, at=time.time() + at - now, unknown=unknown))
        if message.queue:
            self._tell_queue()
        elif self.state == "stopped":
            self._play()

    def _line_up(self, items: list[QueueItem]) -> None:
        self.course.line_up(items, self.studio.clock())
        self._tell_queue()

    def _set(self, message: Set) -> None:
        if message.jpeg_quality is not None:
            self.screen.quality = message.jpeg_quality
        if message.refresh_on_drift is not None:
            self.refresh_on_drift = message.refresh_on_drift or None
        if message.guidance_scale is not None:
            self.course.change(guidance_scale=message.guidance_scale)
        asked = {"num_inference_steps": message.steps, "local_attn_size": message.window, "sink_size": message.sink}
        knobs = dict(self.course.moment.knobs) | {name: value for name, value in asked.items() if value is not None}
        if tuple(knobs.items()) == self.course.moment.knobs:
            return
        self.studio.model.check_knobs(tuple(knobs.items()))
        self.course.change(knobs=tuple(knobs.items()))
        if message.window is not None or message.sink is not None:  # another memory: it begins empty
            self._tasks.append(Do(action="reset"))

    def _do(self, message: Do, viewer: Viewer | None) -> None:
        recorder = self.screen.recorder
        if message.action == "pause" and self.state == "playing":
            self.state = "paused"
            self.screen.pause(True)
        elif message.action == "resume" and self.state in ("paused", "stopped"):
            self._play()
        elif message.action in ("stop", "reset", "rewind"):
            self._tasks.append(message)
        elif message.action == "snapshot":
            recorder.save_still()
        elif message.action == "record":
            recorder.start()
        elif message.action == "record_stop":
            recorder.stop()
        elif message.action == "save_last":
            recorder.save_last(message.seconds or 10.0)
        elif message.action == "audition":
            try:
                self.auditions.ask(message.id, self.studio.clock(), playing=self.state == "playing")
            except ValueError as error:
                (viewer or self).tell(Problem(message=str(error), code="audition"))

    def _play(self) -> None:
        self.state = "playing"
        self.screen.pause(False)

    # ------------------------------------------------------------------ the film

    def _make(self) -> None:
        try:
            piece = self.film.make()
        except Refused as error:
            self.tell(Problem(message=explain(error)[0], action="The film goes on as it was.", code="refused"))
            return
        now, chunk = self.studio.clock(), piece.chunk
        if self._rested:
            self.screen.idle()
            self._rested = False
        if self._new_picture or piece.turn.sudden:
            self.epoch, self._new_picture = self.epoch + 1, False
        late, lost = self.screen.push(chunk, piece.turn.receipts, epoch=self.epoch, made=time.time(), begun=piece.begun)
        self.film.lost(lost)
        fast, recache = not self.pace.slow, chunk.seconds.get("conditioning", 0.0)
        self.pace.took(piece.seconds, recache if piece.switched else 0.0, late if late > _LATE else 0.0, now)
        if fast and self.pace.slow:
            self.tell(slow_of(self))
        if piece.switched:
            self._tell_track()
            self._tell_queue()
        self._refresh_drift(chunk.drift, now)

    def _carry_out(self, task: Do | SessionStart | Stop) -> None:
        if isinstance(task, Stop):
            self._tasks.clear()
            self.end("stopped")
            return
        if isinstance(task, Do) and task.action == "stop":
            self.film.lost(self.screen.clear())
            self.screen.recorder.stop()
            self.state = "stopped"
            return
        # What waits to be shown belongs to the branch that is left now.
        self.film.lost(self.screen.clear())
        if isinstance(task, SessionStart):
            self.film.begin(task.seed, task.of_engine())
        elif task.action == "reset":
            self.film.begin(task.seed, None)
        elif not self.film.rewind(max(0, self.screen.frame - round((task.seconds or 5.0) * self.fps))):
            message = "There is no way back: nothing was shown yet, or a copy of the film takes too much memory."
            self.tell(Problem(message=message, action="Choose a smaller model or size.", code="undo"))
            return
        self._new_picture = True
        self._play()
        self._tell_track()

    def _refresh_drift(self, drift: float | None, now: float) -> None:
        """Make the memory anew, under the same prompt, when the film has drifted too far."""
        limit = self.refresh_on_drift
        if limit is None or drift is None or drift < limit or now - self._refreshed_at < _REFRESH_SECONDS:
            return
        self._refreshed_at = now
        self.course.refresh(self.film.chunk)

    def _take_up(self, parked: Parked) -> None:
        self.course.read(parked.course, parked.chunk, self.studio.clock())
        self.film.load(parked)
        mark_parked(self.folder, parked.model_copy(update={"running": True}))
        self.epoch, self.screen.frame, self._new_picture = parked.epoch, parked.frame, True
        if parked.paused:
            self.state = "paused"
            self.screen.pause(True)

    def _latest(self, now: float) -> float:
        """When the next chunk has to be begun at the latest."""
        return self.screen.deadline(now) - self.pace.lead(switching=self.course.waits)

    def _watched(self, now: float) -> bool:
        if any(viewer.credit > 0 for viewer in self.screen.viewers):
            self._credit_at = now
        elif not self.screen.viewers:
            self._credit_at = now - CREDIT_SECONDS
        return self.screen.recorder.recording or now - self._credit_at < CREDIT_SECONDS

    def _close(self, state: State) -> None:
        self.state, self.over = state, True
        self.screen.recorder.close()
        self.film.close()

    def _tell_track(self) -> None:
        self.tell(Track(branch=self.film.branch, spans=self.course.spans()))

    def _tell_queue(self) -> None:
        self.tell(QueueState(items=list(self.course.queue)))
