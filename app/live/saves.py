"""Saves: files that are made of films beside the films that play, only so many of them at a time.

What would be one too many is refused with a number instead of waiting; nothing waits for what was taken. Pictures do
not queue behind minutes of film: each has a worker of its own. Both give way to the films that play by resting as long
as they have worked. Niceness would be worse than nothing: a thread that is seldom let run keeps Python's lock while it
is not, and the engine waits for that.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from threading import Event, Lock

from app.errors import disk_full, explain
from app.live.heap import give_back
from app.live.worker import Worker

OF_ONE_FILM, OF_ALL_FILMS = 4, 16
"""Files that may be under way at a time: saves, stills, previews, and the recording that runs."""
_LONGEST_REST = 0.05  # seconds


class Crowded(Exception):
    """One more than is taken; the text, for people, says how many that is."""


class Stopped(Exception):
    """The server ends: half a file is of no use."""


class Saves:
    """Of one server.

    Args:
        memory: bytes of frames that those under way may hold together.
    """

    def __init__(self, memory: int) -> None:
        self.stopped = Event()
        self._memory = memory
        self._lock = Lock()
        self._under_way: Counter[str] = Counter()
        self._held = 0
        self._films, self._pictures = Worker("rivulet-save-film"), Worker("rivulet-save")
        self._recordings: set[Worker] = set()

    @property
    def under_way(self) -> int:
        """How many there are."""
        with self._lock:
            return self._under_way.total()

    @property
    def films(self) -> set[str]:
        """Of which films."""
        with self._lock:
            return set(self._under_way)

    @property
    def held(self) -> int:
        """Bytes of frames that they hold."""
        with self._lock:
            return self._held

    def add(self, film: str, save: Callable[[], None], *, held: int = 0, picture: bool = False) -> None:
        """Have `save` done, which holds so many bytes until then; never blocks.

        `save` calls `rest` once a frame, and leaves nothing half done behind when that ends it.

        Raises:
            Crowded: too many are under way.
        """
        self.enter(film, held)

        def work() -> None:
            try:
                if not self.stopped.is_set():
                    save()
            finally:
                self.leave(film, held)
                give_back()

        if not (self._pictures if picture else self._films).give(work):
            self.leave(film, held)
            raise Crowded("The server ends, so nothing more is saved.")

    def rest(self, worked: float) -> None:
        """Let the films that play go before, as many seconds as a save has `worked`, within reason.

        Raises:
            Stopped: the server ends.
        """
        if self.stopped.wait(min(worked, _LONGEST_REST)):
            raise Stopped

    def enter(self, film: str, held: int = 0) -> None:
        """Count one more file of a film as under way.

        Raises:
            Crowded: too many are.
        """
        with self._lock:
            of_film, of_all = self._under_way[film], self._under_way.total()
            if of_film >= OF_ONE_FILM:
                raise Crowded(f"{of_film} files of this film are being made, the most at a time.")
            if of_all >= OF_ALL_FILMS:
                raise Crowded(f"{of_all} files of all films are being made, the most at a time.")
            if held and self._held + held > self._memory:
                share = f"{self._held / 2**20:.0f} of {self._memory / 2**20:.0f} MiB"
                raise Crowded(f"{of_all} files are being made, and their frames hold {share} of memory.")
            self._under_way[film] += 1
            self._held += held

    def leave(self, film: str, held: int = 0) -> None:
        """And no more."""
        with self._lock:
            self._under_way[film] -= 1
            self._held -= held
            if self._under_way[film] <= 0:
                del self._under_way[film]

    def recorder(self, film: str) -> Worker:
        """A worker for the frames of one recording, which counts as under way until it is `recorded`.

        Raises:
            Crowded: too many are.
        """
        self.enter(film)
        worker = Worker("rivulet-record")
        with self._lock:
            self._recordings.add(worker)
        return worker

    def recorded(self, film: str, worker: Worker) -> None:
        """The recording has its file; on its worker's thread."""
        self.leave(film)
        with self._lock:
            self._recordings.discard(worker)

    def idle(self, seconds: float) -> bool:
        """Wait, at most so long, until none is under way; whether that is so."""
        end = time.monotonic() + seconds
        return all(worker.idle(end - time.monotonic()) for worker in self._workers())

    def close(self, seconds: float) -> bool:
        """Drop what waits, stop what has begun, finish recordings; whether all that took less than so long."""
        end = time.monotonic() + seconds
        self.stopped.set()
        for worker in (self._films, self._pictures):
            worker.close(0.0, drop=True)
        ended = [worker.close(end - time.monotonic()) for worker in self._workers()]
        return all(ended)

    def _workers(self) -> list[Worker]:
        with self._lock:
            return [self._films, self._pictures, *self._recordings]


def why_unsaved(error: Exception) -> str:
    """Why a live film's file cannot be written, in a sentence."""
    return "The disk is full." if disk_full(error) else explain(error)[0]
