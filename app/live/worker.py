"""Worker: one thread that does what others may not wait for, in the order in which it was given.

The threads of a live film (engine, encoding, event loop) give their disk work away and go on. A worker's thread is
there while there is work, and nobody ever has to wait for it: it is a daemon, so the process may end without it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread

LINGER = 1.0
"""Seconds for which an idle thread stays, so that frames do not start a thread each."""

_log = logging.getLogger(__name__)


class Worker:
    """One thread at a time.

    Args:
        name: of its thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._running = self._working = self._closed = False

    @property
    def pending(self) -> int:
        """How many jobs wait or are being done."""
        with self._changed:
            return len(self._jobs) + self._working

    def give(self, job: Callable[[], None]) -> bool:
        """Have a job done behind those that wait; never blocks. False once it is closed."""
        with self._changed:
            if self._closed:
                return False
            self._jobs.append(job)
            self._changed.notify_all()
            if not self._running:
                self._running = True
                Thread(target=self._run, name=self._name, daemon=True).start()
        return True

    def idle(self, seconds: float) -> bool:
        """Wait, at most so long, until nothing waits; whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs and not self._working, seconds)

    def close(self, seconds: float, *, drop: bool = False) -> bool:
        """Take no more jobs, `drop` those that wait, and wait, at most so long, for the rest; whether all are done."""
        with self._changed:
            self._closed = True
            if drop:
                self._jobs.clear()
            self._changed.notify_all()
        return self.idle(max(0.0, seconds))

    def _run(self) -> None:
        while True:
            with self._changed:
                end = time.monotonic() + LINGER
                while not self._jobs:
                    left = end - time.monotonic()
                    if left <= 0 or self._closed:
                        self._running = False
                        return
                    self._changed.wait(left)
                job, self._working = self._jobs.popleft(), True
            try:
                job()
            except Exception:  # whoever gave it tells what concerns people; the next one's job is not to blame
                _log.exception("%s: a job failed", self._name)
            del job  # what it held is free before the next one comes
            with self._changed:
                self._working = False
                self._changed.notify_all()
