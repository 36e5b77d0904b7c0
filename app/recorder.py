"""What stays of a live film without the page's help: the last minute always, a recording when asked, a still.

Files are finished on a thread of their own, so that neither the film nor the one who saves it waits.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from app.errors import explain
from app.take import LOG
from app.wire import Problem, Saved

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SavedKind = Literal["recording", "last", "snapshot", "audition"]
KEPT_SECONDS = 60
"""Film that is always kept, as JPEGs."""

_log = logging.getLogger(__name__)


class Recorder:
    """Of one session.

    Args:
        folder: where files go.
        fps: of the film.
        tell: called, on any thread, with what became of a file.
    """

    def __init__(self, folder: Path, fps: float, tell: Callable[[BaseModel], None]) -> None:
        self._folder, self._fps, self._tell = folder, Fraction(fps).limit_denominator(1000), tell
        self._lock = Lock()
        self._ring: deque[bytes] = deque(maxlen=round(KEPT_SECONDS * fps))
        self._writer: _Recording | None = None
        self._last: NDArray[np.uint8] | None = None
        self._auditions = 0
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="rivulet-save")

    @property
    def recording(self) -> bool:
        """Whether a recording runs."""
        return self._writer is not None

    @property
    def kept_frames(self) -> int:
        """How many frames `save_last` could save."""
        return len(self._ring)

    def add(self, pixels: NDArray[np.uint8], jpeg: bytes) -> None:
        """A frame was shown; on the encode thread."""
        with self._lock:
            self._ring.append(jpeg)
            self._last = pixels
            if self._writer is not None:
                try:
                    self._writer.add(pixels)
                except (OSError, ValueError) as error:
                    broken, self._writer = self._writer, None
                    self._failed(error)
                    self._saver.submit(self._save, broken.finish, "recording")

    def start(self) -> None:
        """Record from the next frame on."""
        with self._lock:
            if self._writer is None:
                self._writer = _Recording(self._new_file("recording", "mp4"), self._fps, self._folder / LOG)

    def stop(self) -> None:
        """End the recording and finish its file; nothing to do without one."""
        with self._lock:
            ended, self._writer = self._writer, None
        if ended is not None:
            self._saver.submit(self._save, ended.finish, "recording")

    def save_last(self, seconds: float) -> None:
        """Save the last seconds that were shown, at most a minute."""
        with self._lock:
            frames = list(self._ring)[-max(1, round(seconds * self._fps)) :]
        if not frames:
            self._tell(Problem(message="There is nothing to save yet.", action="Wait for the film.", code="empty"))
            return
        path = self._new_file("last", "mp4")
        self._saver.submit(self._save, lambda: _film_of(frames, path, self._fps, self._folder / LOG), "last")

    def save_still(self) -> None:
        """Save the frame that is on screen, as it was made."""
        with self._lock:
            pixels = self._last
        if pixels is None:
            self._tell(Problem(message="There is no frame yet.", action="Wait for the film.", code="empty"))
            return
        path = self._new_file("still", "png")
        self._saver.submit(self._save, lambda: _still(pixels, path), "snapshot")

    def save_audition(self, pixels: NDArray[np.uint8], name: str) -> None:
        """Save a piece of film that was not shown, in the place of the last one; `name` goes with the message."""
        self._saver.submit(self._save, lambda: self._audition_of(pixels), "audition", name)

    def close(self) -> None:
        """Finish what runs, wait for it, and let go of everything."""
        self.stop()
        self._saver.shutdown(wait=True)
        with self._lock:
            self._ring.clear()
            self._last = None

    def _audition_of(self, pixels: NDArray[np.uint8]) -> Path:
        film = _Recording(self._folder / f"audition-{self._auditions + 1}.mp4", self._fps)
        for frame in pixels:
            film.add(frame)
        path = film.finish()
        assert path is not None  # a chunk has frames
        (self._folder / f"audition-{self._auditions}.mp4").unlink(missing_ok=True)
        self._auditions += 1
        return path

    def _new_file(self, kind: str, ending: str) -> Path:
        stamp = f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
        names = (f"{stamp}{f'-{number}' if number else ''}.{ending}" for number in range(10_000))
        path = next(self._folder / name for name in names if not (self._folder / name).exists())
        path.touch()
        return path

    def _save(self, save: Callable[[], Path | None], kind: SavedKind, name: str = "") -> None:
        try:
            path = save()
        except Exception as error:
            self._failed(error)
            return
        if path is not None:
            self._tell(Saved(kind=kind, name=path.name, id=name))

    def _failed(self, error: Exception) -> None:
        _log.warning("a file could not be saved", exc_info=error)
        self._tell(Problem(message=explain(error)[0], action="The film goes on.", code="save"))


class _Recording:
    """An MP4 that grows while the film plays; it plays up to its last frame whatever happens.

    Args:
        path: where it is when it is finished.
        fps: of the film.
        log: of the film that it is a part of: what dropping it on the page restores.
    """

    def __init__(self, path: Path, fps: Fraction, log: Path | None = None) -> None:
        from app.video import FilmWriter

        self._make, self._path, self._fps, self._log = FilmWriter, path, fps, log
        self._growing = path.with_suffix(".part.mp4")
        self._film: FilmWriter | None = None

    def add(self, pixels: NDArray[np.uint8]) -> None:
        from app.video import viewing_scale

        height, width = pixels.shape[:2]
        if self._film is None:
            scale = viewing_scale(height, width)
            self._film = self._make(self._growing, height=height, width=width, fps=self._fps, scale=scale)
        self._film.write(pixels[None])

    def finish(self) -> Path | None:
        """Make it an ordinary MP4; None if no frame was shown meanwhile."""
        from app.joining import join
        from app.take_tags import film_tags

        if self._film is None:
            self._path.unlink(missing_ok=True)
            return None
        self._film.close()
        join([self._growing], self._path, metadata={} if self._log is None else film_tags(self._log, self._growing))
        self._growing.unlink()
        return self._path


def _film_of(jpegs: list[bytes], path: Path, fps: Fraction, log: Path) -> Path:
    import numpy as np
    from PIL import Image

    film = _Recording(path, fps, log)
    for jpeg in jpegs:
        with Image.open(BytesIO(jpeg)) as picture:
            film.add(np.asarray(picture))
    film.finish()
    return path


def _still(pixels: NDArray[np.uint8], path: Path) -> Path:
    from PIL import Image

    Image.fromarray(pixels).save(path, "PNG")
    return path
