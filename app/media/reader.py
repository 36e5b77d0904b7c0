"""Reader thread of a video source: pictures of a file wait in a short queue, of a live one only the newest are kept.

The thread owns the source: it opens it, waits in its reads and closes it. Whoever takes pictures never waits longer
than `OPEN_SECONDS` for a source that has stopped to answer, and nothing grows when nobody takes any.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from app.errors import UsageMistake
from app.media.source import OPEN_SECONDS, Picture, SourceLost, VideoSource

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUEUED = 24
"""Pictures of a file that are read ahead: two chunks."""
NEWEST = 96
"""Pictures of a live source that are kept: a chunk of 12 at 16 a second, from a camera that makes 120."""
_JOIN_SECONDS = 2.0
"""How long closing waits for a read that does not return; the thread then ends with it, or with the process."""


class PictureFeed(Protocol):
    """Where a film takes its pictures from."""

    def take(self, count: int) -> NDArray[np.uint8]:
        """The next pictures, uint8 RGB [count, H, W, 3].

        Raises:
            SourceLost: there are none any more.
        """
        ...


class Reader:
    """Reads a source on a thread of its own.

    Args:
        source: what is read.
        room: pictures that are kept.
        newest: whether a picture that finds no room replaces the oldest (a live source), or waits (a file).
        progress: a number that rises while the source is at work on its next picture.
        clock: seconds, for the arrival of pictures and for how long one is waited for.
    """

    def __init__(
        self,
        source: VideoSource,
        *,
        room: int,
        newest: bool,
        progress: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self._room, self._newest, self._progress, self._clock = room, newest, progress, clock
        self._kept: deque[tuple[float, Picture]] = deque(maxlen=room if newest else None)
        self._changed = threading.Condition()
        self._open = self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"reader of {source.name}", daemon=True)

    def __enter__(self) -> Self:
        """Open the source.

        Raises:
            UsageMistake: it cannot be opened, or does not answer.
        """
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._open or self._ended, OPEN_SECONDS)
            opened, error = self._open, self._error
        if not opened:
            self.__exit__(None, None, None)
            raise error or UsageMistake(
                f"{self.source.name} has not answered for {OPEN_SECONDS:g} s. Check that it is there and switched on."
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(_JOIN_SECONDS)

    def next(self) -> Picture | None:
        """The oldest picture that is kept, waiting for one; None behind the last.

        Raises:
            SourceLost: the source broke off, or has sent nothing for `OPEN_SECONDS`.
        """
        with self._changed:
            seen = -1
            while not (self._kept or self._ended) and seen != (seen := self._progress()):
                self._changed.wait_for(lambda: self._kept or self._ended, OPEN_SECONDS)
            if self._kept:
                _, picture = self._kept.popleft()
                self._changed.notify_all()
                return picture
            if self._error is not None:
                raise self._error
            if not self._ended:
                raise SourceLost(f"{self.source.name} has sent nothing for {OPEN_SECONDS:g} s")
            return None

    def newest(self) -> list[tuple[float, Picture]]:
        """The pictures that are kept with their arrival, the newest last; at least one.

        Raises:
            SourceLost: the source broke off, or has sent nothing for `OPEN_SECONDS`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._kept or self._ended, OPEN_SECONDS)
            if self._error is not None:
                raise self._error
            if self._ended:
                raise SourceLost(f"{self.source.name} has ended")
            if not self._kept or self._clock() - self._kept[-1][0] > OPEN_SECONDS:
                raise SourceLost(f"{self.source.name} has sent nothing for {OPEN_SECONDS:g} s")
            return list(self._kept)

    def _run(self) -> None:
        try:
            self.source.open()
            self._tell(opened=True)
            while not self._stopped:
                picture = self.source.read()
                if picture is None or not self._put(picture):
                    break
        except BaseException as error:  # told to whoever takes pictures, on their thread
            with self._changed:
                self._error = error
        finally:
            self.source.close()
            self._tell(ended=True)

    def _put(self, picture: Picture) -> bool:
        """Keep a picture; False where nobody needs any more."""
        with self._changed:
            if not self._newest:
                self._changed.wait_for(lambda: len(self._kept) < self._room or self._stopped)
            self._kept.append((self._clock(), picture))
            self._changed.notify_all()
            return not self._stopped

    def _tell(self, *, opened: bool = False, ended: bool = False) -> None:
        with self._changed:
            self._open, self._ended = self._open or opened, self._ended or ended
            self._changed.notify_all()


class FileFeed:
    """Every picture of a file in turn; behind the last one it is held, for the film's last chunk may be longer."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._last: Picture | None = None

    def take(self, count: int) -> NDArray[np.uint8]:
        """The next pictures; raises as `Reader.next`."""
        import numpy as np

        found: list[NDArray[np.uint8]] = []
        while len(found) < count:
            self._last = self._reader.next() or self._last
            if self._last is None:
                raise SourceLost(f"{self._reader.source.name} holds no pictures")
            found.append(self._last.pixels)
        return np.stack(found)


class LiveFeed:
    """The last moments of a live source, up to now: whoever comes late never sees old pictures, nor a burst of them.

    Args:
        reader: of the source; keeps the newest.
        rate: pictures a second.
        clock: seconds; the reader's.
        wait: sleeps for so many.

    Attributes:
        skipped: seconds of the source that were never shown, because the film was slower than it.
    """

    def __init__(
        self,
        reader: Reader,
        rate: Fraction,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._reader, self._step = reader, float(1 / rate)
        self._clock, self._wait = clock, wait
        self._end: float | None = None
        self.skipped = 0.0

    def take(self, count: int) -> NDArray[np.uint8]:
        """The `count` moments that end now, a picture each, once so much time has passed; raises as `Reader.newest`."""
        import numpy as np

        due = (self._clock() if self._end is None else self._end) + count * self._step
        if (early := due - self._clock()) > 0:
            self._wait(early)
        end = max(due, self._clock())
        if self._end is not None:
            self.skipped += end - due
        self._end = end
        kept = self._reader.newest()
        moments = [end - (count - 1 - index) * self._step for index in range(count)]
        return np.stack([_at(kept, moment).pixels for moment in moments])


def _at(kept: list[tuple[float, Picture]], moment: float) -> Picture:
    """The newest picture that had arrived by then; the oldest where none had."""
    return next((picture for arrived, picture in reversed(kept) if arrived <= moment), kept[0][1])
