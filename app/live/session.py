"""One live film: what viewers ask of it on any thread, and what the engine does with it on its own.

A message changes plans (app/live/prompts.py) or waits for the engine (app/live/detours.py); only `step`, `park` and
`end`, which the engine thread calls, touch the stream. No thread waits here for a disk: what is written is given away.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from app.live.audience import Audience
from app.live.autosave import Autosave
from app.live.checkpoint import Parked, mark_parked
from app.live.detours import Detour, Detours
from app.live.film import LiveFilm, Refused, Studio, latent_of
from app.live.messages import (
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
    SavingState,
    SessionStart,
    Set,
    State,
    Stop,
    Track,
)
from app.live.pacing import Pace
from app.live.player import LiveFrame as LiveFrame
from app.live.player import Receipt, Screen, Viewer
from app.live.preview import Auditions
from app.live.prompts import Course
from app.live.recorder import Recorder
from app.live.recording import Ended
from app.live.status import NO_WAY_BACK, ended_of, failed_of, hello_of, metrics_of, place_of, refused_of, slow_of
from app.live.turns import Debt
from app.loading.live import Copy
from app.record.log_writer import TakeWriter
from app.record.session_log import Moment

GRACE = 5.0
"""Seconds without a viewer after which a session is parked."""
UNWATCHED_RECORDING = 120.0
"""Seconds without anybody who takes a frame after which a recording ends."""
_REPORT_SECONDS = 0.5
_LATE = 0.001

_log = logging.getLogger(__name__)


class Session:
    """A live film.

    Args:
        session_id: its name, and its folder's.
        studio: what it shares with others.
        folder: where its log and what it saves go.
        moment: what it begins with.
        take: its log.
        parked: where it went on to and the state there, if it is taken up again; ValueError if that does not fit.

    Attributes:
        folder: as given.
        screen: what is shown.
        audience: who watches.
        debt: what it owes other films.
        epoch: how often the picture began anew.
    """

    def __init__(
        self,
        session_id: str,
        studio: Studio,
        folder: Path,
        moment: Moment,
        take: TakeWriter,
        parked: tuple[Parked, Copy] | None = None,
    ) -> None:
        model, clock = studio.model, studio.clock
        self.id, self.studio, self.folder = session_id, studio, folder
        self.fps, self.width, self.height = model.fps, model.width, model.height
        self.state: State = "playing"
        self.over = False
        recorder = Recorder(
            folder, model.fps, lambda event: self.audience.tell(event), studio.saves, studio.quota, self._recorded
        )
        self.screen = Screen(model.fps, recorder, clock, seq=0 if parked is None else parked[0].seq_from)
        self.audience = Audience(self.screen, clock, () if parked is None else parked[0].missed)
        self.course = Course(moment, model.fps, model.rhythm)
        self.film = LiveFilm(studio, take, self.course)
        self.pace = Pace(model.chunk_frames / model.fps)
        self.auditions = Auditions(self.course, self.film, self.pace, recorder, self.audience.tell)
        self._autosave = Autosave(folder, clock, studio.disk, studio.quota, take, self._saving)
        take.gap = lambda why: self.audience.tell(Problem(message=why, action="Reset begins a new log.", code="disk"))
        self._detours = Detours()
        self._owed: tuple[Receipt, ...] = ()  # of a prompt that is in force and was not seen yet
        self.epoch = 0
        self._new_picture = False  # the next chunk takes the screen at once
        self._arriving = False  # after a rewind, until its first chunk is made
        self.debt = Debt(clock())
        self._rested = True
        self._report_at = 0.0
        self._jumped_at = float("-inf")
        if parked is not None:
            self._take_up(*parked)

    # ------------------------------------------------------------------ any thread

    def attach(self, viewer: Viewer) -> None:
        """Somebody watches."""
        self.audience.enter(viewer)
        viewer.tell(Track(branch=self.film.branch, spans=self.course.spans()))
        if (trouble := self._autosave.trouble) is not None:
            viewer.tell(SavingState(on=False, message=trouble))
        self.studio.wake()

    def detach(self, viewer: Viewer) -> None:
        """And does no more."""
        self.audience.leave(viewer)
        self.studio.wake()

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
            self._detours.ask(message)
        else:
            self._do(message, viewer)
        self._autosave.soon()
        self.studio.wake()

    def latest_jpeg(self) -> bytes | None:
        """The frame on screen."""
        return self.screen.latest

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
        jump = max(now, self._jumped_at + self.pace.length)
        if self._arriving:
            return now
        if self._detours:  # once a chunk's length, however often it is asked for
            return jump
        if self.state != "playing" or not self._watched(now):
            self._rested = True
            return now if self._autosave.urgent else None
        sudden = jump if self._new_picture or self.course.sudden else None
        if self.screen.stocked:
            return sudden
        usual = now if self.auditions.wait else self._latest(now)
        return usual if sudden is None else min(usual, sudden)

    def spare(self, now: float) -> float:
        """For how many seconds the engine may do something else."""
        if self._arriving:
            return 0.0
        return float("inf") if self.state != "playing" or self._rested else self._latest(now) - now

    def forsaken(self, now: float) -> bool:
        """Whether nobody has watched or recorded for so long that it should be parked; ends what nobody sees."""
        if self.screen.recorder.recording and self.audience.unseen(now) >= UNWATCHED_RECORDING:
            self.screen.recorder.stop("unwatched")
        return self.audience.absent(now) >= GRACE and not self.screen.recorder.recording

    def step(self) -> int:
        """Do what waits, and make the next chunk; returns how many were made."""
        now, made, epoch = self.studio.clock(), self.film.made, self.epoch
        # A rewind arrives before the next one begins, or a film whose driver rewinds all the time never would.
        asked = [] if self._arriving or now < self._jumped_at + self.pace.length else self._detours.take()
        jumped = bool(asked) or self._arriving
        try:
            for detour in asked:
                self._carry_out(detour)
                self._jumped_at = now
            if not self.over:
                self._go_on(now, at_once=jumped)
        except Exception as error:
            _log.exception("session %s has failed", self.id)
            self.audience.tell(failed_of(error))
            self.end("error")
        self.debt.had(now, self.studio.clock(), jumped=jumped or self.epoch != epoch)
        return self.film.made - made

    def park(self) -> None:
        """Have everything written to the folder; the session is over in this process."""
        self.film.lost(self.screen.clear().frames)
        self.screen.recorder.stop("over")
        self._autosave.park(self.film.copy(), place_of(self, running=False))
        self._close("parked")
        self.audience.tell(Done(reason="parked"))

    def end(self, reason: str) -> None:
        """The film is over, once; whoever stopped it has its place on the disk forgotten, nothing else does."""
        if self.over:
            return
        self.film.lost(self.screen.clear().frames)
        if reason == "stopped":
            self._autosave.forget()
        self._close("parked" if reason == "parked" else "stopped")
        self.audience.tell(Done(reason=reason))

    # ------------------------------------------------------------------ messages

    def _say(self, message: PromptUpdate, viewer: Viewer | None) -> None:
        now = self.studio.clock()
        overtaken: tuple[Receipt, ...] = ()
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
                transition = message.transition.of_engine()
                overtaken = self.course.say(message.of_engine(), transition, message.hold, receipt)
                chunk = self.course.upcoming
                at = max(now + self.pace.lead(switching=True) - self.pace.margin, self.screen.deadline(now))
        if viewer is not None:
            unknown = self.studio.spelling.unknown(message.of_engine())
            viewer.tell(Accepted(id=message.id, chunk=chunk, at=time.time() + at - now, unknown=unknown))
        self.audience.tell_overtaken(overtaken, message.id)
        if message.queue:
            self._tell_queue()
        elif self.state == "stopped":
            self._play()

    def _line_up(self, items: list[QueueItem]) -> None:
        self.course.line_up(items, self.studio.clock())
        self._tell_queue()

    def _set(self, message: Set) -> None:
        given = message.given()
        self.screen.quality = given.get("jpeg_quality", self.screen.quality)
        if "refresh_on_drift" in given:
            self.course.refresh_on_drift = given["refresh_on_drift"] or None
        if self.course.adjust(message, self.studio.model.check_knobs):  # another memory: it begins empty
            self._detours.ask(Do(action="reset"))

    def _do(self, message: Do, viewer: Viewer | None) -> None:
        if message.action == "pause" and self.state == "playing":
            self.state = "paused"
            self.screen.pause(True)
        elif message.action == "resume" and self.state in ("paused", "stopped"):
            self._play()
        elif message.action in ("stop", "reset", "rewind"):
            self._detours.ask(message)
        elif message.action == "audition":
            try:
                self.auditions.ask(message.id, self.studio.clock(), playing=self.state == "playing")
            except ValueError as error:
                (viewer or self.audience).tell(Problem(message=str(error), code="audition"))
        elif (refused := self.screen.recorder.do(message)) is not None:
            (viewer or self.audience).tell(refused)

    def _play(self) -> None:
        self.state = "playing"
        self.screen.pause(False)

    # ------------------------------------------------------------------ the film

    def _go_on(self, now: float, *, at_once: bool) -> None:
        """One chunk: of what a rewind makes again, so that other films' chunks come in between, else the next."""
        self._arriving = self.film.behind
        if self._arriving:
            self.film.make_again()
            return
        if self._autosave.due(now):
            self._autosave.save(self.film.copy(), place_of(self, running=True))
        if self.state == "playing" and (at_once or self._watched(now)):
            self._make()

    def _make(self) -> None:
        try:
            piece = self.film.make()
        except Refused as error:
            self.audience.tell(refused_of(error))
            return
        now, chunk = self.studio.clock(), piece.chunk
        if self._rested:
            self.screen.idle()
            self._rested = False
        if self._new_picture or piece.turn.sudden:
            self.epoch, self._new_picture, self._jumped_at = self.epoch + 1, False, now
        receipts, owed, self._owed = piece.turn.receipts, self._owed, ()
        if not piece.switched:
            receipts = (*owed, *receipts)
        late, dropped = self.screen.push(chunk, receipts, epoch=self.epoch, made=time.time(), begun=piece.begun)
        self.film.lost(dropped.frames)
        by = receipts[-1].id if receipts else ""
        self.audience.tell_overtaken((*(owed if piece.switched else ()), *dropped.receipts), by)
        fast, recache = not self.pace.slow, chunk.seconds.get("conditioning", 0.0)
        self.pace.took(piece.seconds, recache if piece.switched else 0.0, late if late > _LATE else 0.0, now)
        if fast and self.pace.slow:
            self.audience.tell(slow_of(self))
        if piece.switched:
            self._tell_track()
            self._tell_queue()
        if chunk.drift is not None:
            self.course.drifted(chunk.drift, self.film.chunk, now)

    def _carry_out(self, detour: Detour) -> None:
        if isinstance(detour, Stop):
            self.end("stopped")
            return
        dropped, before = self.screen.clear(), self.course.moment.prompt
        self._owed += dropped.receipts
        self.film.lost(dropped.frames)  # what waits to be shown belongs to the branch that is left now
        if isinstance(detour, Do) and detour.action == "stop":
            self.screen.recorder.stop()
            self.state = "stopped"
            return
        if isinstance(detour, SessionStart):
            self.film.begin(detour.seed, detour.of_engine())
        elif detour.action == "reset":
            self.film.begin(detour.seed, None)
        elif not self.film.rewind(max(0, self.screen.frame - round((detour.seconds or 5.0) * self.fps))):
            self.audience.tell(NO_WAY_BACK)
            return
        if self.course.moment.prompt != before:
            self.audience.tell_overtaken(self._owed, "")
            self._owed = ()
        self._new_picture = True
        self._play()
        self._tell_track()

    def _recorded(self, ended: Ended) -> None:
        """A recording takes no more frames; on any thread."""
        self.film.recorded(ended)
        if ended.ended != "asked" and ended.ended != "over":
            self.audience.tell(ended_of(ended, UNWATCHED_RECORDING))

    def _saving(self, trouble: str | None) -> None:
        """Nothing is saved any more, or all is again; on the disk's thread."""
        self.audience.tell(SavingState(on=trouble is None, message=trouble or "The film is being saved again."))

    def _take_up(self, parked: Parked, copy: Copy) -> None:
        self.course.read(parked.course, parked.chunk, self.studio.clock())
        self.film.load(parked, copy)
        self.studio.disk.give(lambda: mark_parked(self.folder, parked.model_copy(update={"running": True})))
        self._autosave.soon()  # says the same, should that fail
        self.epoch, self.screen.frame, self._new_picture = parked.epoch, parked.frame, True
        if parked.paused:
            self.state = "paused"
            self.screen.pause(True)

    def _latest(self, now: float) -> float:
        """When the next chunk has to be begun at the latest."""
        return self.screen.deadline(now) - self.pace.lead(switching=self.course.waits)

    def _watched(self, now: float) -> bool:
        return self.audience.watches(now) or self.screen.recorder.recording

    def _close(self, state: State) -> None:
        self.state, self.over = state, True
        self.screen.recorder.close()
        self.film.close()

    def _tell_track(self) -> None:
        self.audience.tell(Track(branch=self.film.branch, spans=self.course.spans()))

    def _tell_queue(self) -> None:
        self.audience.tell(QueueState(items=list(self.course.queue)))
