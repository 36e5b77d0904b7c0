"""The engine thread: the only one that touches streams, one chunk at a time, for whichever session is due first.

A chunk is begun as late as is safe, so that a prompt never waits behind a finished one, and not at all while nobody
watches or records.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from threading import Condition, Event, Lock, Thread
from typing import TYPE_CHECKING

from app.encode import EncodeThread
from app.errors import EXIT_USAGE, explain, printable
from app.heap import give_back
from app.live_film import Studio
from app.live_model import LiveModel, LiveOpener, open_live
from app.parked import is_session_id, read_parked, sweep
from app.session import Session
from app.take import Moment
from pipelines.types import Controls

if TYPE_CHECKING:
    from app.opening import EngineRequest

UNDO_MEMORY = 2**30
_CREDIT_POLL = 0.05
_IDLE_POLL = 0.5
_SWEEP_SECONDS = 60.0

_log = logging.getLogger(__name__)


class Busy(Exception):
    """Every session is taken; `position` is the place of whoever asks among those who wait here, 1 is next."""

    def __init__(self, position: int = 1) -> None:
        super().__init__("All films that this machine can make at once are taken. Try again in a minute.")
        self.position = position


class _Request:
    """Somebody on another thread waits for a session."""

    def __init__(self, wanted: str | None) -> None:
        self.wanted = wanted if wanted is not None and is_session_id(wanted) else None
        self.done = Event()
        self.session: Session | None = None
        self.error: Exception | None = None


class LiveEngine:
    """Live films of one model.

    Args:
        request: which model, and how to stream it.
        folder: a folder a session is made in it.
        prompt: what a film begins with.
        seed: of a film's noise; -1 draws one for each.
        max_sessions: films at once; a parked one does not count.
        keep_seconds: for how long a parked film can be taken up again.
        opener: loads the model.
        undo_memory: bytes for ways back, of all films together.
        clock: seconds that only go forward.
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        Controls(prompt)  # an empty one is refused before a model is loaded
        self.request, self.folder, self.prompt, self.seed = request, folder, prompt, seed
        self.max_sessions, self.keep_seconds = max_sessions, keep_seconds
        self._opener, self._undo_memory, self._clock = opener, undo_memory, clock
        self._sessions: dict[str, Session] = {}
        self._requests: list[_Request] = []
        self._lock = Lock()
        self._wake = Condition()
        self._woken = self._closed = self._expected = False
        self._studio: Studio | None = None
        self._failure: Exception | None = None
        self._loaded = Event()
        self._chunks = 0
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

    def close(self) -> None:
        """Park every film and end; a later process takes them up again."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._encode.close()

    def wake(self) -> None:
        """Something has changed."""
        with self._wake:
            self._woken = True
            self._wake.notify()

    def open(self, session_id: str | None = None) -> Session:
        """A session: the running one of this name, else the parked one taken up again, else a new one.

        Waits until the model is loaded and the engine thread has a moment; not for an event loop.

        Raises:
            Busy: there are `max_sessions` already.
            ValueError, OSError: what loading the model refused.
        """
        self._expected = True
        self._loaded.wait()
        if self._failure is not None:
            raise self._failure
        request = _Request(session_id)
        with self._lock:
            running = self._sessions.get(request.wanted or "")
            if running is not None and not running.over:
                running.expect()
                return running
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._requests.append(request)
        self.wake()
        request.done.wait()
        if request.session is None:
            raise request.error or RuntimeError("the engine is closed")
        return request.session

    def metrics(self) -> dict[str, float]:
        """Figures for a dashboard."""
        sessions = self._all()
        times = [each for session in sessions if (each := session.pace.chunk_seconds) is not None]
        return {
            "sessions": len(sessions),
            "viewers": sum(len(session.screen.viewers) for session in sessions),
            "chunks": self._chunks,
            "frames_encoded": sum(session.screen.encoded for session in sessions),
            "underruns": sum(session.pace.underruns for session in sessions),
            "chunk_seconds": max(times, default=0.0),
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
        if now >= self._sweep_at:
            sweep(self.folder, self.keep_seconds, self._sessions)
            self._sweep_at = now + _SWEEP_SECONDS
        sessions = self._all()
        due = [(when, session) for session in sessions if (when := session.due(now)) is not None]
        if due:
            when, session = min(due, key=lambda each: each[0])
            if when > now:
                return 0.0 if self._audition(sessions, now) else min(when - now, _IDLE_POLL)
            self._chunks += session.step()
            if session.over:
                self._remove(session)
            self._encode.wake()
            return 0.0
        if self._audition(sessions, now):
            return 0.0
        if any(session.screen.viewers for session in sessions):
            return _CREDIT_POLL  # an acknowledgement does not wake
        return _IDLE_POLL if sessions else None

    def _audition(self, sessions: list[Session], now: float) -> bool:
        """Make what somebody wants to see of a prompt that waits, if all films have the time; True if it took some."""
        asking = next((session for session in sessions if session.auditions.wait), None)
        if asking is None:
            return False
        spare = min(session.spare(now) for session in sessions)
        return asking.auditions.make(spare, now, playing=asking.state == "playing")

    def load(self) -> None:
        """Load the model."""
        try:
            model = self._opener(self.request)
            self._studio = Studio(model, self._clock, self._changed)
            self.folder.mkdir(parents=True, exist_ok=True)
        except Exception as error:
            message, code = explain(error)
            if code == EXIT_USAGE:  # a folder that somebody can put right is a sentence here too
                _log.error("the model could not be loaded: %s", printable(message))
            else:
                _log.exception("the model could not be loaded")
            self._failure = error
        self._loaded.set()

    def _run(self) -> None:
        self.load()
        if self._studio is not None and not self._expected:  # whoever waits has the first chunk at once
            self._warm_up(self._studio.model)
        while not self._closed:
            try:
                pause = self.step() if self._failure is None else None
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
        for place, request in enumerate(requests, 1):
            try:
                request.session = self._session_for(request.wanted, place)
            except Exception as error:
                request.error = error
            request.done.set()

    def _session_for(self, wanted: str | None, place: int) -> Session:
        if wanted in self._sessions:
            return self._sessions[wanted]
        if self._closed:
            raise RuntimeError("the engine is closed")
        if len(self._sessions) >= self.max_sessions:
            raise Busy(place)
        session = self._taken_up(wanted) if wanted is not None else None
        if session is None:
            name = secrets.token_hex(8)
            seed = secrets.randbelow(2**31) if self.seed == -1 else self.seed
            session = Session(name, self._shared, self.folder / name, Moment(self.prompt, seed))
        with self._lock:
            self._sessions[session.id] = session
        self._share_memory()
        return session

    def _taken_up(self, name: str) -> Session | None:
        studio, folder = self._shared, self.folder / name
        parked = read_parked(folder, self.keep_seconds)
        if parked is None or (parked.checksum, parked.preset) != (studio.model.checksum, studio.model.preset):
            return None
        try:
            session = Session(name, studio, folder, parked.course.past[-1].moment, parked)
        except (ValueError, OSError):
            _log.exception("session %s cannot go on; a new film begins", name)
            return None
        return session

    @property
    def _shared(self) -> Studio:
        assert self._studio is not None  # open() has waited for it
        return self._studio

    def _park(self, session: Session) -> None:
        with self._lock:
            if not self._closed and not session.forsaken(self._clock()):  # somebody came back this very moment
                return
            self._sessions.pop(session.id, None)
        try:
            session.park()
        except Exception:
            _log.exception("session %s could not be parked", session.id)
            session.end("parked")  # where it was saved last
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
            session.film.limit_undo(self._undo_memory // len(sessions))

    def _all(self) -> list[Session]:
        with self._lock:
            return list(self._sessions.values())

    def _changed(self) -> None:
        self.wake()
        self._encode.wake()
