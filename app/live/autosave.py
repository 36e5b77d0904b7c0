"""A live film's place on the disk while it plays, so that a server that is killed does not take the film with it.

The engine thread gives a copy of the state between two chunks, which costs it milliseconds; the disk's own thread
writes it, never two of a film at a time, and less often where it takes long. A copy that cannot be written leaves the
one before it where it is, and the film's viewers know; it is tried again until it works.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from app.errors import disk_full, explain
from app.live.checkpoint import Parked, forget_parked, write_parked
from app.live.quota import NoRoom, Quota
from app.live.worker import Worker
from app.loading.live import Copy
from app.record.log_writer import TakeWriter

EVERY = 5.0
"""Seconds between two copies of a film that only goes on."""
SOON = 1.0
"""Seconds between two copies of a film whose plans change."""
_BESIDE = 64 * 1024
"""Bytes of what is written beside the state."""
_SHARE = 20
"""A copy that takes long is waited for: at least so many times as long."""

_log = logging.getLogger(__name__)


class Autosave:
    """Of one session.

    Args:
        folder: where it goes; there is room for two copies there, and never more than that.
        clock: seconds that only go forward.
        disk: writes.
        quota: of the disk.
        take: the film's log; a copy that is ahead of it is worth nothing, so the log is written first.
        tell: called, on the disk's thread, with why nothing is saved any more, and with None when it is again.
    """

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float],
        disk: Worker,
        quota: Quota,
        take: TakeWriter,
        tell: Callable[[str | None], None],
    ) -> None:
        self._folder, self._clock, self._disk, self._quota = folder, clock, disk, quota
        self._take, self._tell = take, tell
        self._writing = False
        self._saved_at = clock()
        self._took = 0.0
        self._changed = False
        self._trouble: str | None = None

    @property
    def trouble(self) -> str | None:
        """Why nothing is saved at present; None: all is well."""
        return self._trouble

    def soon(self) -> None:
        """Something has changed that should not be lost; on any thread."""
        self._changed = True

    def due(self, now: float) -> bool:
        """Whether the film should be copied before its next chunk."""
        if self._writing:
            return False
        pause = EVERY if self._trouble is not None or not self._changed else SOON
        return now - self._saved_at >= max(pause, _SHARE * self._took)

    @property
    def urgent(self) -> bool:
        """Whether a film that makes no chunks should be copied all the same."""
        return (self._changed or self._trouble is not None) and self.due(self._clock())

    def save(self, copy: Copy, place: Callable[[str, str], Parked]) -> None:
        """Write a copy of the state, and then `place` of the file's name and its sha256; on the engine thread."""
        self._changed, self._saved_at, self._writing = False, self._clock(), True

        def write() -> None:
            try:
                self._write(copy, place)
            finally:
                self._writing = False

        self._disk.give(write)

    def park(self, copy: Copy, place: Callable[[str, str], Parked]) -> None:
        """Write the last copy; nothing comes after it."""
        self._disk.give(lambda: self._write(copy, place))

    def forget(self) -> None:
        """The film is over: there is no way back in."""
        self._disk.give(lambda: forget_parked(self._folder))

    def _write(self, copy: Copy, place: Callable[[str, str], Parked]) -> None:
        begun = time.monotonic()
        try:
            self._take.flush()
            self._quota.room(self._folder.name, copy.size + copy.size // 16 + _BESIDE, copy=True)
            write_parked(self._folder, copy.save, place)
        except Exception as error:  # the film goes on, and the copy before this one is still there
            self._took = 0.0
            if self._trouble is None:
                about = {"session": self._folder.name}
                _log.warning("a copy of the film could not be written", exc_info=True, extra=about)
            self._say(why(error))
        else:
            self._took = time.monotonic() - begun
            self._say(None)

    def _say(self, trouble: str | None) -> None:
        before, self._trouble = self._trouble, trouble
        if (before is None) != (trouble is None):
            self._tell(trouble)


def why(error: Exception) -> str:
    """Why a live film's file cannot be written, in a sentence."""
    if isinstance(error, NoRoom):
        return str(error)
    return "The disk is full." if disk_full(error) else explain(error)[0]
