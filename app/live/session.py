"""Session: one live film, what viewers ask of it on any thread, and what the engine does with it on its own.

A message changes plans (app/live/prompts.py) or waits for the engine (app/live/commands.py); only `step`, `park` and
`end`, which the engine thread calls, touch the stream. No thread waits here for a disk: what is written is given away.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path

from app.errors import out_of_memory
from app.live import status
from app.live.audience import Audience
from app.live.beginning import Beginning
from app.live.checkpoint import Autosave, Checkpoint, mark_checkpoint
from app.live.commands import Command, Commands
from app.live.film import LiveFilm, Refused, Studio
from app.live.messages import (
    Ack,
    ClientMessage,
    Do,
    Done,
    Hello,
    LookUp,
    Problem,
    PromptUpdate,
    QueueEdit,
    QueueItem,
    SessionStart,
    Set,
    State,
    Stop,
)
from app.live.pacing import Pace
from app.live.player import Player, Receipt, Viewer
from app.live.preview import Previews
from app.live.prompts import PromptSchedule
from app.live.recorder import Recorder
from app.live.recording import Ended
from app.live.scheduling import Debt
from app.loading.live import Copy
from app.record.log_writer import LogWriter
from app.record.session_log import ChunkControls
from pipelines.types import in_words

GRACE, UNWATCHED_RECORDING = 5.0, 120.0
"""Seconds without a viewer after which a session is parked, and without anybody who takes a frame, a recording ends."""
_REPORT_SECONDS, _LATE = 0.5, 0.001

_log = logging.getLogger(__name__)


class Session:
    """A live film.

    Args:
        session_id: its name, and its folder's.
        studio: what it shares with others.
        folder: where its log and what it saves go.
        controls: what it begins with.
        session_log: its log.
        checkpoint: where it went on to and the state there, if it is taken up again; ValueError if that does not fit.

    Attributes:
        folder: as given.
        player: what is shown.
        audience: who watches.
        debt: what it owes other films.
        epoch: how often the picture began anew; `stuck`: what to tell if it stays out of memory.
    """

    def __init__(
        self,
        session_id: str,
        studio: Studio,
        folder: Path,
        controls: ChunkControls,
        session_log: LogWriter,
        checkpoint: tuple[Checkpoint, Copy] | None = None,
    ) -> None:
        model, clock = studio.model, studio.clock
        self.id, self.studio, self.folder = session_id, studio, folder
        self.fps, self.width, self.height = model.fps, model.width, model.height
        self.state: State = "playing"
        recorder = Recorder(
            folder, model.fps, lambda event: self.audience.tell(event), studio.saves, studio.quota, self._recorded
        )
        recorder.words = lambda: in_words(self.schedule.controls.prompt)
        self.player = Player(model.fps, recorder, clock, seq=0 if checkpoint is None else checkpoint[0].seq_from)
        self.audience = Audience(self.player, clock, () if checkpoint is None else checkpoint[0].missed)
        self.schedule = PromptSchedule(controls, model.fps, model.rhythm)
        self._commands = Commands(studio.wake)
        self.film = LiveFilm(studio, session_log, self.schedule, self.audience.tell, self._commands.ask)
        self.pace = Pace(model.chunk_frames / model.fps)
        self.previews = Previews(self.schedule, self.film, self.pace, recorder, self.audience.tell)
        room = partial(studio.quota.room, session_id, copy=True)
        self._autosave = Autosave(folder, clock, studio.disk, room, session_log, self._saving)
        session_log.gap = lambda why: self.audience.tell(status.gap(why))
        self._owed: tuple[Receipt, ...] = ()  # of a prompt that is in force and was not seen yet
        self.epoch, self.over = 0, False
        self.stuck: Problem | None = None
        self._new_picture = False  # the next chunk takes the screen at once
        self._arriving = False  # after a rewind, until its first chunk is made
        self.debt = Debt(clock())
        self._rested, self._report_at, self._jumped_at = True, 0.0, float("-inf")
        if checkpoint is not None:
            self._take_up(*checkpoint)

    # ------------------------------------------------------------------ any thread

    def attach(self, viewer: Viewer) -> None:
        """Somebody watches."""
        self.audience.enter(viewer)
        viewer.tell(status.track(self))
        if (trouble := self._autosave.trouble) is not None:
            viewer.tell(status.saving(trouble))
        self.studio.wake()

    def detach(self, viewer: Viewer) -> None:
        """And does no more."""
        self.audience.leave(viewer)
        self.film.video.left(viewer)
        self.studio.wake()

    def hello(self, viewer: Viewer) -> Hello:
        """What a viewer has to know first; the server adds the tokens."""
        return status.hello(self, viewer)

    def submit(self, message: ClientMessage, viewer: Viewer | None = None) -> None:
        """Take a message of whoever drives.

        Raises:
            ValueError: it asks for something that cannot be.
        """
        if self.over or isinstance(message, Ack):
            return
        if isinstance(message, LookUp):
            if viewer is not None:
                viewer.tell(status.words(self, message))
            return
        if isinstance(message, PromptUpdate):
            self._say(message, viewer)
        elif isinstance(message, QueueEdit):
            self._line_up(message.items)
        elif isinstance(message, Set):
            self._set(message)
        elif isinstance(message, Stop | SessionStart):
            self._commands.ask(message)
        else:
            self._do(message, viewer)
        self._autosave.soon()
        self.studio.wake()

    def latest_jpeg(self) -> bytes | None:
        """The frame on screen."""
        return self.player.latest

    def report(self, now: float) -> float:
        """Tell viewers how it goes, twice a second, and return when next; on the encode thread."""
        if now < self._report_at:
            return self._report_at
        self._report_at = now + _REPORT_SECONDS
        self.audience.tell(status.metrics(self, now))
        return self._report_at

    # ------------------------------------------------------------------ the engine thread

    def due(self, now: float) -> float | None:
        """When the next chunk has to be begun; None: nobody waits for one."""
        jump = max(now, self._jumped_at + self.pace.length)
        if self._arriving:
            return now
        if self._commands:  # once a chunk's length, however often it is asked for
            return jump
        if self.state != "playing" or not self._watched(now):
            self._rested = True
            return now if self._autosave.urgent else None
        sudden = jump if self._new_picture or self.schedule.sudden else None
        if self.player.stocked:
            return sudden
        usual = now if self.previews.wait else self._latest(now)
        return usual if sudden is None else min(usual, sudden)

    def spare(self, now: float) -> float:
        """For how many seconds the engine may do something else."""
        if self._arriving:
            return 0.0
        return float("inf") if self.state != "playing" or self._rested else self._latest(now) - now

    def forsaken(self, now: float) -> bool:
        """Whether nobody has watched or recorded for so long that it should be parked; ends what nobody sees."""
        if self.player.recorder.recording and self.audience.unseen(now) >= UNWATCHED_RECORDING:
            self.player.recorder.stop("unwatched")
        return self.audience.absent(now) >= GRACE and not self.player.recorder.recording

    def step(self) -> int:
        """Do what waits, and make the next chunk; returns how many were made."""
        now, made, epoch = self.studio.clock(), self.film.made, self.epoch
        # A rewind arrives before the next one begins, or a film whose driver rewinds all the time never would.
        asked = [] if self._arriving or now < self._jumped_at + self.pace.length else self._commands.take()
        jumped = bool(asked) or self._arriving
        try:
            for command in asked:
                self._carry_out(command)
                self._jumped_at = now
            if not self.over:
                self._go_on(now, at_once=jumped)
        except Exception as error:
            _log.exception("a film has failed", extra={"session": self.id, "chunk": self.film.chunk})
            if out_of_memory(error):
                self.stuck = status.failed(error)  # which the engine sees to, once nothing holds the error any more
                return 0
            self.audience.tell(status.failed(error))
            self.end("error")
        switching = self.pace.switching if self.film.made != made else 0.0
        self.debt.had(now, self.studio.clock(), jumped=jumped or self.epoch != epoch, switching=switching)
        return self.film.made - made

    def limit_memory(self, history: int, recent: int) -> None:
        """Let its history, and the last minute that can be saved, take so many bytes from now on."""
        self.film.limit_history(history)
        self.player.recorder.limit_memory(recent)

    def park(self) -> None:
        """Have everything written to the folder; the session is over in this process."""
        self.film.lost(self.player.clear().frames)
        self.player.recorder.stop("over")
        self._autosave.park(self.film.copy(), status.checkpoint(self, running=False))
        self._close("parked")
        self.audience.tell(Done(reason="parked"))

    def end(self, reason: str) -> None:
        """The film is over, once; whoever stopped it has its place on the disk forgotten, nothing else does."""
        if self.over:
            return
        self.film.lost(self.player.clear().frames)
        if reason == "stopped":
            self._autosave.forget()
        self._close("parked" if reason == "parked" else "stopped")
        self.audience.tell(Done(reason=reason))

    # ------------------------------------------------------------------ messages

    def _say(self, message: PromptUpdate, viewer: Viewer | None) -> None:
        now, prompt = self.studio.clock(), message.of_engine()
        overtaken: tuple[Receipt, ...] = ()
        if message.queue:
            item = QueueItem(id=message.id, prompt=message.prompt, hold=message.hold, transition=message.transition)
            chunk, frame = self.schedule.line_up_last(item, now)
            wait = max(0.0, (frame - self.player.frame) / self.fps)
        else:
            receipt, transition = Receipt(message.id, now), message.transition.of_engine()
            chunk, overtaken = self.schedule.say(prompt, transition, message.hold, receipt)
            wait = max(self.pace.lead(switching=True) - self.pace.margin, self.player.deadline(now) - now)
        if viewer is not None:
            viewer.tell(status.accepted(self, message, chunk, wait))
        self.audience.tell_overtaken(overtaken, message.id)
        if message.queue:
            self.audience.tell(status.queue(self))
        elif self.state == "stopped":
            self._play()

    def _line_up(self, items: list[QueueItem]) -> None:
        self.schedule.line_up(items, self.studio.clock())
        self.audience.tell(status.queue(self))

    def _set(self, message: Set) -> None:
        given = message.given()
        self.player.quality = given.get("jpeg_quality", self.player.quality)
        if "refresh_on_drift" in given:
            self.schedule.refresh_on_drift = given["refresh_on_drift"] or None
        if self.schedule.adjust(message, self.studio.model.check_knobs):  # another memory: it begins empty
            self._commands.ask(Do(action="reset"))

    def _do(self, message: Do, viewer: Viewer | None) -> None:
        if message.action == "pause" and self.state == "playing":
            self.state = "paused"
            self.player.pause(True)
        elif message.action == "resume" and self.state in ("paused", "stopped"):
            self._play()
        elif message.action in ("stop", "reset", "rewind", "return"):
            self._commands.ask(message)
        elif message.action in ("audition", "takes"):
            try:
                self.previews.ask(message, self.studio.clock(), playing=self.state == "playing")
            except ValueError as error:
                (viewer or self.audience).tell(status.no_preview(error))
        elif (refused := self.player.recorder.do(message)) is not None:
            (viewer or self.audience).tell(refused)

    def _play(self) -> None:
        self.state = "playing"
        self.player.pause(False)

    # ------------------------------------------------------------------ the film

    def _go_on(self, now: float, *, at_once: bool) -> None:
        """One chunk: of what a rewind makes again, so that other films' chunks come in between, else the next."""
        self._arriving = self.film.behind
        if self._arriving:
            self.film.make_again()
            return
        if self._autosave.due(now):
            self._autosave.save(self.film.copy(), status.checkpoint(self, running=True))
        if self.state == "playing" and (at_once or self._watched(now)):
            self._make()

    def _make(self) -> None:
        try:
            made = self.film.make()
        except Refused as error:
            self.audience.tell(status.refused(error))
            return
        now, chunk = self.studio.clock(), made.chunk
        if self._rested:
            self.player.idle()
            self._rested = False
        if self._new_picture or made.plan.sudden:
            self.epoch, self._new_picture, self._jumped_at = self.epoch + 1, False, now
        receipts, owed, self._owed = made.plan.receipts, self._owed, ()
        if not made.switched:
            receipts = (*owed, *receipts)
        late, lost = self.player.push(chunk, receipts, made.marks, epoch=self.epoch, made=time.time(), begun=made.begun)
        self.film.lost(lost.frames)
        by = receipts[-1].id if receipts else ""
        self.audience.tell_overtaken((*(owed if made.switched else ()), *lost.receipts), by)
        fast, recache = not self.pace.slow, chunk.seconds.get("conditioning", 0.0)
        self.pace.took(made.seconds, recache if made.switched else 0.0, late if late > _LATE else 0.0, now)
        if fast and self.pace.slow:
            self.audience.tell(status.slow(self))
        if made.switched:
            self.audience.tell(status.track(self))
            self.audience.tell(status.queue(self))
        if chunk.drift is not None:
            self.schedule.drifted(chunk.drift, self.film.chunk, now)

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, Stop):
            self.end("stopped")
            return
        dropped, before = self.player.clear(), self.schedule.controls.prompt
        self._owed += dropped.receipts
        self.film.lost(dropped.frames)  # what waits to be shown belongs to the branch that is left now
        if isinstance(command, Do) and command.action == "stop":
            self.player.recorder.stop()
            self.state = "stopped"
            return
        frame, gone = self.player.frame, None
        if isinstance(command, SessionStart):
            self.film.begin(command.seed, command.of_engine(), frame)
        elif isinstance(command, Beginning):
            self.film.begin(None, None, frame, command)
        elif command.action == "reset":
            self.film.begin(command.seed, None, frame)
        elif command.action == "return":
            gone = None if self.film.go_to(command.branch, frame) else status.BRANCH_GONE
        elif not self.film.rewind(max(0, frame - round((command.seconds or 5.0) * self.fps)), frame):
            gone = status.NO_WAY_BACK
        if gone is not None:
            self.audience.tell(gone)
            return
        if self.schedule.controls.prompt != before:
            self.audience.tell_overtaken(self._owed, "")
            self._owed = ()
        self._new_picture = True
        self._play()
        self.audience.tell(status.track(self))

    def _recorded(self, ended: Ended) -> None:  # on any thread
        self.film.recorded(ended)
        if ended.ended != "asked" and ended.ended != "over":
            self.audience.tell(status.ended(ended, UNWATCHED_RECORDING))

    def _saving(self, trouble: str | None) -> None:  # on the disk's thread
        self.audience.tell(status.saving(trouble))

    def _take_up(self, checkpoint: Checkpoint, copy: Copy) -> None:
        self.schedule.read(checkpoint.course, checkpoint.chunk, self.studio.clock())
        self.film.load(checkpoint, copy)
        self.studio.disk.give(lambda: mark_checkpoint(self.folder, checkpoint.model_copy(update={"running": True})))
        self._autosave.soon()  # says the same, should that fail
        self.epoch, self.player.frame, self._new_picture = checkpoint.epoch, checkpoint.frame, True
        if checkpoint.paused:
            self.state = "paused"
            self.player.pause(True)

    def _latest(self, now: float) -> float:
        """When the next chunk has to be begun at the latest."""
        return self.player.deadline(now) - self.pace.lead(switching=self.schedule.waits)

    def _watched(self, now: float) -> bool:
        return self.audience.watches(now) or self.player.recorder.recording

    def _close(self, state: State) -> None:
        self.state, self.over = state, True
        self.player.recorder.close()
        self.film.close()
