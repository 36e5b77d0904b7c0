"""Recording of a live film: the frames that are shown, into an MP4 that grows on a thread of its own.

It plays up to its last frame whatever happens; when it ends, it becomes an ordinary MP4. It ends by itself when its
disk is full or too slow for the film, or its share of the disk is used up: whoever shows frames never waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from app.live.quota import NoRoom
from app.live.saves import why_unsaved
from app.live.worker import Worker
from app.record.session_log import RecordingEnd

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from app.media.mp4 import FilmWriter

WAITING_BYTES = 64 * 2**20
"""Of frames that wait to be written."""
_CHECK_FRAMES = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """A recording takes no more frames: its file will be `name`, with so many frames. `why` is a sentence or "".

    A file without frames is not made.
    """

    name: str
    frames: int
    ended: RecordingEnd
    why: str = ""


class Recording:
    """One.

    Args:
        path: where it is when it is finished; until then it grows beside it, as .part.mp4.
        fps: of the film.
        tags: metadata of the finished film, asked for when it ends, of the file that grew.
        worker: writes; used by nobody else.
        room: called with bytes that it is about to write; NoRoom ends it.
        ended: called once, on any thread, when it takes no more frames.
        done: called once, on the worker's thread, with the finished file, why there is none, or None if nothing was
            shown meanwhile.
    """

    def __init__(
        self,
        path: Path,
        fps: Fraction,
        tags: Callable[[Path], dict[str, str]],
        worker: Worker,
        *,
        room: Callable[[int], None],
        ended: Callable[[Ended], None],
        done: Callable[[Path | Exception | None], None],
    ) -> None:
        self._path, self._fps, self._tags, self._worker = path, fps, tags, worker
        self._room, self._ended, self._done = room, ended, done
        self._growing = path.with_suffix(".part.mp4")
        self._about = {"session": path.parent.name}
        self._lock = Lock()
        self._waiting = self._frames = 0
        self._over = self._finished = False
        self._film: FilmWriter | None = None
        self._trouble: Exception | None = None

    @property
    def over(self) -> bool:
        """Whether it takes no more frames."""
        return self._over

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """A frame was shown; never blocks."""
        with self._lock:
            if self._over:
                return
            slow = self._waiting + pixels.nbytes > WAITING_BYTES
            if not slow:
                self._waiting += pixels.nbytes
                self._frames += 1
        if slow:
            self.end("slow", "This machine could not write it as fast as the film plays.")
        else:
            self._worker.give(lambda: self._write(pixels))

    def end(self, ended: RecordingEnd, why: str = "") -> None:
        """Take no more frames, and finish the file behind those that wait; never blocks. Once."""
        if self._close(ended, why):
            self._worker.give(self._finish)

    def _close(self, ended: RecordingEnd, why: str) -> bool:
        with self._lock:
            if self._over:
                return False
            self._over = True
        self._ended(Ended(self._path.name, self._frames, ended, why))
        return True

    def _write(self, pixels: NDArray[np.uint8]) -> None:
        try:
            if self._finished:  # it ended by itself, and this is behind its end
                return
            if self._film is None or self._film.frames % _CHECK_FRAMES == 0:
                self._room(_CHECK_FRAMES * pixels.nbytes // 8)  # H.264 takes less
            if self._film is None:
                self._film = growing_film(self._growing, pixels, self._fps)
            self._film.write(pixels[None])
        except (OSError, ValueError, NoRoom) as error:
            with self._lock:  # what waits behind this frame is not written either
                self._frames = 0 if self._film is None else self._film.frames
            if self._close("size" if isinstance(error, NoRoom) else "disk", why_unsaved(error)):
                self._finish()
            else:  # nobody was told of it
                self._trouble = error
        finally:
            with self._lock:
                self._waiting -= pixels.nbytes

    def _finish(self) -> None:
        from app.media.join import join

        film, self._film, self._finished = self._film, None, True
        if film is None or film.frames == 0:  # a file without frames plays nowhere
            if film is not None:
                film.abandon()
            with suppress(OSError):
                self._growing.unlink(missing_ok=True)
            self._done(self._trouble)
            return
        try:
            film.close()
            join([self._growing], self._path, metadata=self._carried())
            self._growing.unlink()
        except Exception as error:  # the part that was written plays, so it stays
            _log.warning("a recording could not be finished", exc_info=error, extra=self._about)
            film.abandon()
            self._done(error)
        else:
            self._done(self._path)

    def _carried(self) -> dict[str, str]:
        try:
            return self._tags(self._growing)
        except Exception as error:  # a recording is worth more than what it carries
            _log.warning("a recording was saved without its settings", exc_info=error, extra=self._about)
            return {}


def growing_film(path: Path, pixels: NDArray[np.uint8], fps: Fraction) -> FilmWriter:
    """An MP4 for frames of this size, enlarged to be pleasant to watch.

    It is written while the film plays, so with x264's next faster preset: two thirds of the time, a tenth more bytes.
    """
    from app.media.mp4 import FilmWriter, viewing_scale

    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pixels.shape[:2]
    scale = viewing_scale(height, width)
    return FilmWriter(path, height=height, width=width, fps=fps, scale=scale, preset="superfast")
