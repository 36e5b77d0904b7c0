"""Engine thread: the only one that touches streams, one chunk at a time, for whichever session is due first.

A chunk is begun as late as is safe, so that a prompt never waits behind a finished one, and not at all while nobody
watches or records. The thread waits for no disk and for no other thread: what is read and written is read and written
by the disk's own.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from threading import Condition, Event, Lock, Thread
from typing import TYPE_CHECKING

from app.errors import EXIT_USAGE, explain, printable
from app.live.admission import Busy as Busy
from app.live.admission import Closed, Request, damaged
from app.live.checkpoint import sweep
from app.live.files import LiveFiles
from app.live.film import Studio
from app.live.heap import give_back
from app.live.player import EncodeThread
from app.live.quota import clear_halves
from app.live.scheduling import next_film
from app.live.session import Session
from app.live.shrinking import go_on_smaller
from app.live.spelling import Spelling
from app.loading.live import LiveModel, LiveOpener, films_at_once, open_live
from app.record.log_writer import LogWriter
from app.record.session_log import LOG, ChunkControls
from pipelines.types import Controls

if TYPE_CHECKING:
    from app.loading.engine_request import EngineRequest

UNDO_MEMORY, LIVE_MEMORY, LIVE_DISK = 2**30, 2**29, 10 * 10**9
"""Bytes for ways back; for the last minutes and what is being saved of them; and for the folders, of all films."""
CLOSE_SECONDS = 2.0
"""What parking has when the server ends."""
_CREDIT_POLL = 0.05
_IDLE_POLL = 0.5
_SWEEP_SECONDS = 60.0

_log = logging.getLogger(__name__)


class LiveEngine:
    """Live films of one model.

    Args:
        request: which model, and how to stream it.
        folder: a folder a session is made in it.
        prompt: what a film begins with.
        seed: of a film's noise; -1 draws one for each.
        max_sessions: films at once, 0: as many as the machine can play; a parked one does not count.
        keep_seconds: for how long a parked film can be taken up again.
        opener: loads the model.
        undo_memory: bytes for ways back, of all films together.
        live_memory: bytes for the last minutes that can be saved, of all films together.
        live_disk: bytes for the films' folders together; those that nobody has open give way.
        files: what several engines of a server share.
        clock: seconds that only go forward.

    Attributes:
        failure: why no film can be made; None: nothing speaks against it so far.
    """

    def __init__(
        self,
        request: EngineRequest,
        *,
        folder: Path,
        prompt: str,
        seed: int = -1,
        max_sessions: int = 4,
        keep_seconds: float = 3600.0,
        opener: LiveOpener = open_live,
        undo_memory: int = UNDO_MEMORY,
        live_memory: int = LIVE_MEMORY,
        live_disk: int = LIVE_DISK,
        files: LiveFiles | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        Controls(prompt)  # an empty one is refused before a model is loaded
        self.request, self.folder, self.prompt, self.seed = request, folder, prompt, seed
        self.max_sessions, self.keep_seconds = max_sessions, keep_seconds
        self._opener, self._undo_memory, self._live_memory, self._clock = opener, undo_memory, live_memory, clock
        self._sessions: dict[str, Session] = {}
        self._asking: set[Request] = set()
        self._requests: list[Request] = []  # those of them that the engine has to look at
        self._parking = 0
        self._lock = Lock()
        self._wake = Condition()
        self._woken = self._closed = self._expected = self._sweeping = False
        self._own = files is None
        self.files = LiveFiles(folder, live_memory, live_disk) if files is None else files
        self._disk, self._saves, self._quota = self.files.disk, self.files.saves, self.files.quota
        self.files.add(self.films)
        self._studio: Studio | None = None
        self.failure: Exception | None = None
        self._loaded = Event()
        self._chunks = 0
        self.chunk_took: Callable[[float], object] = lambda seconds: None  # told of every chunk, on the engine thread
        self._sweep_at = 0.0
        self._thread = Thread(target=self._run, name="rivulet-engine", daemon=True)
        self._encode = EncodeThread(self._all, clock, self.wake)

    # ------------------------------------------------------------------ any thread

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and films can be made."""
        return self._studio is not None and not self._closed

    def start(self) -> None:
        """Begin to load the model, and then to serve."""
        self._thread.start()
        self._encode.start()

    def leave_off(self) -> None:
        """Take nobody in any more, and let those go who wait; never blocks."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._loaded.set()
        with self._lock:
            asking = list(self._asking)
        for request in asking:
            request.answer(Closed())

    def close(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Park every film and end; a later process takes them up again.

        Waits at most so long. False: something has not ended by then, which costs films what came after their last
        copies, and nothing else.
        """
        end = time.monotonic() + seconds
        self.leave_off()
        if self._thread.is_alive():
            self._thread.join(seconds)
        ended = not self._thread.is_alive()
        ended = self._encode.close(max(0.0, end - time.monotonic())) and ended
        return self.files.close(end, ended=ended) if self._own else ended

    def wake(self) -> None:
        """Something has changed."""
        with self._wake:
            self._woken = True
            self._wake.notify()

    def open(self, session_id: str | None = None) -> Session:
        """A new session, or of this name the running one, else the parked one taken up again.

        Waits until the model is loaded and the engine thread has a moment; not for an event loop.

        Raises:
            Busy: there are `max_sessions` already.
            NotKept: the film of this name cannot be taken up; the text says why.
            ValueError, OSError: what loading the model refused.
            Closed: the server ends.
        """
        self._expected = True
        self._loaded.wait()
        if self.failure is not None:
            raise self.failure
        request = Request(session_id)
        with self._lock:
            running = self._sessions.get(request.name)
            if self._closed:
                raise Closed()
            if running is not None and not running.over:
                running.audience.expect()
                return running
            self._asking.add(request)
            self._requests.append(request)
        self.wake()
        try:
            return request.wait()
        finally:
            with self._lock:
                self._asking.discard(request)

    def films(self) -> set[str]:
        """Those that somebody has or asks for."""
        with self._lock:
            return {*self._sessions, *(request.name for request in self._asking)}

    def metrics(self) -> dict[str, float]:
        """Figures for a dashboard."""
        sessions = self._all()
        times = [each for session in sessions if (each := session.pace.chunk_seconds) is not None]
        return {
            "sessions": len(sessions),
            "viewers": sum(len(session.player.viewers) for session in sessions),
            "chunks": self._chunks,
            "frames_encoded": sum(session.player.encoded for session in sessions),
            "underruns": sum(session.pace.underruns for session in sessions),
            "chunk_seconds": max(times, default=0.0),
            "kept_bytes": self._saves.held + sum(session.player.recorder.kept_bytes for session in sessions),
            **self.files.metrics(),
            "memory_bytes": 0 if self._studio is None else self._studio.model.memory(),
        }

    # ------------------------------------------------------------------ the engine thread

    def step(self) -> float | None:
        """Do the most urgent thing, and return how many seconds nothing will be; None: until woken."""
        now = self._clock()
        self._admit()
        for session in self._all():
            if session.over:
                self._remove(session)
            elif session.forsaken(now):
                self._park(session)
        if now >= self._sweep_at and not self._sweeping:
            self._sweeping, self._sweep_at = True, now + _SWEEP_SECONDS
            self._disk.give(self._sweep)
        sessions = self._all()
        turn = next_film(sessions, now)
        if turn is not None:
            when, session = turn
            if when > now:
                return 0.0 if self._preview(sessions, now) else min(when - now, _IDLE_POLL)
            if made := session.step():
                self._chunks += made
                self.chunk_took(session.pace.last)
            if session.stuck is not None:
                self.failure = go_on_smaller(self._shared, self._all(), session)
            if session.over:
                self._remove(session)
            self._encode.wake()
            return 0.0
        if self._preview(sessions, now):
            return 0.0
        if any(session.player.viewers for session in sessions):
            return _CREDIT_POLL  # an acknowledgement does not wake
        return _IDLE_POLL if sessions else None

    def _preview(self, sessions: list[Session], now: float) -> bool:
        """Make what somebody wants to see of a prompt that waits, if all films have the time; True if it took some."""
        asking = next((session for session in sessions if session.previews.wait), None)
        if asking is None:
            return False
        spare = min(session.spare(now) for session in sessions)
        return asking.previews.make(spare, now, playing=asking.state == "playing")

    def load(self) -> None:
        """Load the model."""
        try:
            model = self._opener(self.request)
            self.max_sessions = self.max_sessions or films_at_once(model.device)
            spelling = Spelling(model.text, self._clock)
            self._studio = Studio(model, self._clock, self._changed, self._disk, self._saves, self._quota, spelling)
            self.folder.mkdir(parents=True, exist_ok=True)
        except Exception as error:
            message, code = explain(error)
            if code == EXIT_USAGE:  # a folder that somebody can put right is a sentence here too
                _log.error("the model could not be loaded: %s", printable(message))
            else:
                _log.exception("the model could not be loaded")
            self.failure = error
        self._loaded.set()

    def _run(self) -> None:
        self.load()
        if self._studio is not None and not self._expected:  # whoever waits has the first chunk at once
            self._warm_up(self._studio.model)
        while not self._closed:
            try:
                pause = self.step() if self.failure is None else None
            except Exception:  # what one session could not do was told to its viewers; this is about the engine itself
                _log.exception("the engine stumbled")
                pause = _IDLE_POLL
            with self._wake:
                if not self._woken and not self._closed and pause != 0.0:
                    self._wake.wait(pause)
                self._woken = False
        self._admit()
        for session in self._all():
            self._park(session)

    def _warm_up(self, model: LiveModel) -> None:
        """Make a chunk that nobody sees: the first of a process takes longer."""
        try:
            model.new_stream(0, ()).next_chunk(Controls(self.prompt))
        except Exception:  # the first session will tell
            _log.exception("warming up failed")

    def _admit(self) -> None:
        with self._lock:
            requests, self._requests = self._requests, []
        for position, request in enumerate(requests, 1):
            try:
                session = self._session_for(request, position)
            except Exception as error:
                request.answer(error)
            else:
                if session is not None:
                    request.answer(session)

    def _session_for(self, request: Request, position: int) -> Session | None:
        """The session that was asked for; None: the disk has to be asked first, and what was parked before is
        written before that."""
        running = self._sessions.get(request.name)
        if running is not None and not running.over:
            return running
        if self._closed:
            raise Closed()
        if len(self._sessions) >= self.max_sessions:
            raise Busy(position)
        if not request.known:
            self._disk.give(lambda: self._read(request))
            return None
        studio, folder = self._shared, self.folder / request.name
        session_log = request.session_log or LogWriter(folder / LOG, studio.model, self._disk.give, new=True)
        if request.checkpoint is None:
            seed = secrets.randbelow(2**31) if self.seed == -1 else self.seed
            session = Session(request.name, studio, folder, ChunkControls(self.prompt, seed), session_log)
        else:
            controls = request.checkpoint[0].course.past[-1].controls
            try:
                session = Session(request.name, studio, folder, controls, session_log, request.checkpoint)
            except ValueError as error:
                raise damaged(error, request.name) from error
        with self._lock:
            self._sessions[session.id] = session
        self._share_memory()
        return session

    @property
    def _shared(self) -> Studio:
        assert self._studio is not None  # open() has waited for it
        return self._studio

    def _park(self, session: Session) -> None:
        with self._lock:
            # On a slow disk films wait for their place there where they are: their copies would fill the memory.
            back = not session.forsaken(self._clock()) or self._parking >= self.max_sessions
            if back and not self._closed:
                return
            self._sessions.pop(session.id, None)
            self._parking += 1
        try:
            session.park()
        except Exception:
            _log.exception("a film could not be parked", extra={"session": session.id, "chunk": session.film.chunk})
            session.end("parked")  # where it was saved last
        self._disk.give(self._was_parked)
        self._share_memory()
        give_back()

    def _remove(self, session: Session) -> None:
        with self._lock:
            if self._sessions.get(session.id) is session:
                del self._sessions[session.id]
        self._share_memory()
        give_back()

    def _share_memory(self) -> None:
        sessions = [session for session in self._all() if not session.over]
        for session in sessions:
            session.limit_memory(self._undo_memory // len(sessions), self._live_memory // 2 // len(sessions))

    def _all(self) -> list[Session]:
        with self._lock:
            return list(self._sessions.values())

    def _changed(self) -> None:
        self.wake()
        self._encode.wake()

    # ------------------------------------------------------------------ the disk's thread

    def _read(self, request: Request) -> None:
        try:
            request.read_kept(self.folder / request.name, self._shared.model, self.keep_seconds, self._disk.give)
        except Exception as error:
            request.answer(error)
            return
        with self._lock:
            self._requests.append(request)
        self.wake()

    def _was_parked(self) -> None:
        with self._lock:
            self._parking -= 1
        give_back()  # the copy that was written
        self._quota.keep()

    def _sweep(self) -> None:
        try:
            open_films = self.files.open_films()
            sweep(self.folder, self.keep_seconds, open_films)
            clear_halves(self.folder, open_films)
            self._quota.keep()
        finally:
            self._sweeping = False
