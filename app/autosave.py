"""A live film's place on the disk while it plays, so that a server that is killed does not take the film with it.

The engine thread gives a copy of the state between two chunks, which costs it milliseconds; writing is done on a
thread of its own, never two at a time, and less often where it takes long.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from app.live_model import Copy
from app.parked import Parked, write_parked

EVERY = 5.0
"""Seconds between two copies of a film that only goes on."""
SOON = 1.0
"""Seconds between two copies of a film whose plans change."""
_SHARE = 20
"""A copy that takes long is waited for: at least so many times as long."""

_log = logging.getLogger(__name__)


class Autosave:
    """Of one session.

    Args:
        folder: where it goes; there is room for two copies there, and never more than that.
        clock: seconds that only go forward.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._folder, self._clock = folder, clock
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="rivulet-autosave")
        self._writing: Future[None] | None = None
        self._saved_at = clock()
        self._took = 0.0
        self._changed = False

    def soon(self) -> None:
        """Something has changed that should not be lost; on any thread."""
        self._changed = True

    def due(self, now: float) -> bool:
        """Whether the film should be copied before its next chunk."""
        if self._writing is not None and not self._writing.done():
            return False
        return now - self._saved_at >= max(SOON if self._changed else EVERY, _SHARE * self._took)

    @property
    def urgent(self) -> bool:
        """Whether a film that makes no chunks should be copied all the same."""
        return self._changed and self.due(self._clock())

    def save(self, copy: Copy, place: Callable[[str, str], Parked]) -> None:
        """Write a copy of the state, and then `place` of the file's name and its sha256; on the engine thread."""
        self._changed, self._saved_at = False, self._clock()
        self._writing = self._writer.submit(self._write, copy, place)

    def close(self) -> None:
        """Wait for what is being written; nothing is any more."""
        self._writer.shutdown(wait=True)

    def _write(self, copy: Copy, place: Callable[[str, str], Parked]) -> None:
        begun = time.monotonic()
        try:
            write_parked(self._folder, copy.save, place)
        except Exception:  # a full disk: the film goes on, and the copy before this one is still there
            _log.warning("a copy of the film could not be written", exc_info=True)
        self._took = time.monotonic() - begun
