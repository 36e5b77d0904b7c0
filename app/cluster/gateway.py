"""Gateway: the live engines of one server, each of which has its networks on the cluster.

Sessions, viewers, logs and files are all here; a session stays with its live engine, whose streams are wherever the
fleet has them. There are as many engines as there are films to play, within what the cluster has room for.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

from app.cluster.fleet import EngineHome, Fleet
from app.cluster.remote import far_model
from app.errors import explain, printable
from app.live.admission import Busy, Closed
from app.live.engine import CLOSE_SECONDS, LIVE_DISK, LIVE_MEMORY, UNDO_MEMORY, LiveEngine
from app.live.files import LiveFiles
from app.loading.live import LiveModel
from pipelines.types import Controls

if TYPE_CHECKING:
    from app.live.session import Session
    from app.loading.engine_request import EngineRequest

IDLE_SECONDS = 60.0
"""After so long without a film an engine ends, but for the last one."""
_LOOK_SECONDS = 2.0
_log = logging.getLogger(__name__)


class ClusterEngine:
    """Live films of one model on many engines, in the place of app.live.engine.LiveEngine.

    Args:
        fleet: of the engines.
        request: which model, and how to stream it.
        most: engines at a time.
        films: at a time on each engine.
        idle: seconds after which one without films ends.
        leave: called when all is closed: the cluster is left.
        folder, prompt, seed, keep_seconds, undo_memory, live_memory, live_disk: as of LiveEngine, of all films
            together.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        fleet: Fleet,
        request: EngineRequest,
        *,
        most: int,
        films: int,
        folder: Path,
        prompt: str,
        seed: int = -1,
        keep_seconds: float = 3600.0,
        undo_memory: int = UNDO_MEMORY,
        live_memory: int = LIVE_MEMORY,
        live_disk: int = LIVE_DISK,
        idle: float = IDLE_SECONDS,
        leave: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        Controls(prompt)  # an empty one is refused before an engine is started
        self.fleet, self.request, self.folder, self.most, self.films = fleet, request, folder, most, films
        self._prompt, self._seed, self._keep_seconds, self._idle, self._clock = prompt, seed, keep_seconds, idle, clock
        self._undo_memory, self._live_memory = undo_memory // most, live_memory // most
        self._leave = leave
        self._files = LiveFiles(folder, live_memory, live_disk)
        self._lock = Lock()
        self._numbers = itertools.count()
        self._engines: dict[int, LiveEngine] = {}
        self._homes: dict[int, EngineHome] = {}
        self._empty_since: dict[int, float] = {}
        self._past = 0.0  # chunks of engines that have ended
        self._failure: Exception | None = None
        self._closed = Event()
        self._thread = Thread(target=self._look_after, name="rivulet-engines", daemon=True)
        self.chunk_took: Callable[[float], object] = lambda seconds: None

    @property
    def ready(self) -> bool:
        """Whether films can be made."""
        return not self._closed.is_set() and any(engine.ready for engine in self._all())

    def start(self) -> None:
        """Begin the first engine, and to look after all of them."""
        self._add()
        self._thread.start()

    def leave_off(self) -> None:
        """Take nobody in any more, and let those go who wait; never blocks."""
        self._closed.set()
        for engine in self._all():
            engine.leave_off()

    def close(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Park every film and end all engines; as of LiveEngine."""
        end = time.monotonic() + seconds
        self.leave_off()
        closing = [Thread(target=engine.close, args=(seconds,), daemon=True) for engine in self._all()]
        for each in closing:
            each.start()
        for each in closing:
            each.join(max(0.0, end - time.monotonic()))
        ended = self._files.close(end, ended=not any(each.is_alive() for each in closing))
        self.fleet.close()
        self._leave()
        return ended

    def open(self, session_id: str | None = None) -> Session:
        """A new session, or of this name the running one, else the parked one taken up again; as of LiveEngine.

        Raises:
            Busy: every engine is full, or gone; another one may be on its way.
            NotKept, ValueError, OSError, Closed: as of LiveEngine.
        """
        if self._closed.is_set():
            raise Closed()
        engines = self._all()
        running = next((engine for engine in engines if session_id is not None and session_id in engine.films()), None)
        if running is not None:
            return running.open(session_id)
        if not engines:
            if isinstance(self._failure, ValueError | OSError):  # another one would be refused, too
                raise self._failure
            self._add()
            raise Busy()
        loaded = [engine for engine in engines if engine.ready]
        if not loaded:  # the first one loads: whoever asks waits for it
            return engines[0].open(session_id)
        chosen = min(loaded, key=lambda engine: len(engine.films()))
        if len(chosen.films()) >= self.films:
            if len(engines) < self.most and len(loaded) == len(engines):
                self._add()
            raise Busy()
        return chosen.open(session_id)

    def metrics(self) -> dict[str, float]:
        """Figures for a dashboard, of all engines together."""
        each = [engine.metrics() for engine in self._all()]
        total = {name: sum(figures[name] for figures in each) for name in each[0]} if each else {}
        total["chunk_seconds"] = max((figures["chunk_seconds"] for figures in each), default=0.0)
        total["kept_bytes"] = total.get("kept_bytes", 0.0) - (len(each) - 1) * self._files.saves.held if each else 0.0
        total["chunks"] = total.get("chunks", 0.0) + self._past
        engines = {"engines": len(self.fleet.engines), "engines_lost": self.fleet.losses}
        return {**total, **self._files.metrics(), **engines}

    # ------------------------------------------------------------------ as many as there are films

    def look_after(self) -> None:
        """End engines that nobody needs, and forget those that could not begin."""
        now = self._clock()
        with self._lock:
            engines = dict(self._engines)
        for number, engine in engines.items():
            if engine.failure is not None:
                message, _ = explain(engine.failure)
                _log.error("an engine could not begin: %s", printable(message))
                self._failure = engine.failure
                self._remove(number)
            elif engine.films() or not engine.ready:
                self._empty_since.pop(number, None)
            elif now - self._empty_since.setdefault(number, now) >= self._idle and len(self._all()) > 1:
                self._remove(number)

    def _look_after(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            try:
                self.look_after()
            except Exception:  # films do not end because of it
                _log.exception("the engines could not be looked after")

    def _add(self) -> None:
        with self._lock:
            if len(self._engines) >= self.most or self._closed.is_set():
                return
            number = next(self._numbers)
            engine = self._engines[number] = LiveEngine(
                self.request,
                folder=self.folder,
                prompt=self._prompt,
                seed=self._seed,
                max_sessions=self.films,
                keep_seconds=self._keep_seconds,
                opener=lambda request: self._open_model(request, number),
                undo_memory=self._undo_memory,
                live_memory=self._live_memory,
                files=self._files,
                clock=self._clock,
            )
        engine.chunk_took = lambda seconds: self.chunk_took(seconds)
        engine.start()

    def _open_model(self, request: EngineRequest, number: int) -> LiveModel:
        """What a live engine loads: an engine of the fleet; on its own thread."""
        home, facts = self.fleet.open()
        self._homes[number] = home
        return far_model(request, facts, home)

    def _remove(self, number: int) -> None:
        with self._lock:
            engine = self._engines.pop(number, None)
        if engine is None:
            return
        self._empty_since.pop(number, None)
        self._past += engine.metrics()["chunks"]
        engine.close()
        self._files.remove(engine.films)
        if (home := self._homes.pop(number, None)) is not None:
            self.fleet.give_up(home)

    def _all(self) -> list[LiveEngine]:
        with self._lock:
            return list(self._engines.values())
