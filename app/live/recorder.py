"""Recorder of a live film, without the page's help: the last minute always, a recording when asked, a still.

Files are made by workers, so that neither the film nor the one who saves waits; a file has its name when it is whole.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from app.live.messages import Do, Problem, Saved
from app.live.quota import Quota
from app.live.recording import Ended, Recording, growing_film
from app.live.saves import Crowded, Saves, Stopped, why_unsaved
from app.live.worker import Worker
from app.record.session_log import LOG, RecordingEnd

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from app.media.mp4 import FilmWriter

SavedKind = Literal["recording", "last", "snapshot", "audition", "take"]
KEPT_SECONDS = 60
"""Film that is always kept, as JPEGs, where the memory for it suffices."""
TAKES_KEPT = 4
"""Clips that are there at a time."""
LONGEST_WORDS = 60
"""Characters of what a film shows in a file's name."""

_log = logging.getLogger(__name__)


class Recorder:
    """Of one session.

    Args:
        folder: where files go.
        fps: of the film.
        tell: called, on any thread, with what became of a file.
        saves: makes files.
        quota: of the disk.
        ended: called, on any thread, when a recording takes no more frames.

    Attributes:
        words: what the film shows, for names of files.
    """

    def __init__(
        self,
        folder: Path,
        fps: float,
        tell: Callable[[BaseModel], None],
        saves: Saves,
        quota: Quota,
        ended: Callable[[Ended], None],
    ) -> None:
        self.words: Callable[[], str] = lambda: ""
        self._folder, self._fps, self._tell = folder, Fraction(fps).limit_denominator(1000), tell
        self._saves, self._quota, self._ended = saves, quota, ended
        self._lock = Lock()
        self._ring: deque[bytes] = deque(maxlen=round(KEPT_SECONDS * fps))
        self._ring_bytes, self._memory = 0, 2**40
        self._recording: Recording | None = None
        self._last: NDArray[np.uint8] | None = None
        self._auditions = self._takes = 0
        self._first_take = 1
        self._closed = False
        self._stamps: dict[str, tuple[str, int]] = {}

    @property
    def recording(self) -> bool:
        """Whether a recording runs."""
        recording = self._recording
        return recording is not None and not recording.over

    @property
    def kept_frames(self) -> int:
        """How many frames `save_last` could save."""
        return len(self._ring)

    @property
    def kept_bytes(self) -> int:
        """What they take."""
        return self._ring_bytes

    def limit_memory(self, memory: int) -> None:
        """Let the last minute take so many bytes from now on; less of it is kept where that is too little."""
        with self._lock:
            self._memory = memory
            self._trim()

    def add(self, pixels: NDArray[np.uint8], jpeg: bytes) -> None:
        """A frame was shown; on the encode thread, which never waits here."""
        with self._lock:
            if len(self._ring) == self._ring.maxlen:
                self._ring_bytes -= len(self._ring.popleft())
            self._ring.append(jpeg)
            self._ring_bytes += len(jpeg)
            self._trim()
            self._last = pixels
            recording = self._recording
        if recording is not None:
            recording.add(pixels)

    def do(self, button: Do) -> Problem | None:
        """What one of the buttons asks for, or why not; never blocks."""
        if button.action == "snapshot":
            return self.save_still()
        if button.action == "record":
            return self.start()
        if button.action == "save_last":
            return self.save_last(button.seconds or 10.0)
        self.stop()
        return None

    def start(self) -> Problem | None:
        """Record from the next frame on, or say why not; a recording that runs goes on."""
        if self.recording:
            return None
        film = self._folder.name
        try:
            worker = self._saves.recorder(film)
        except Crowded as error:
            return _refusal(error)
        recording = Recording(
            self._new_file("recording", "mp4"),
            self._fps,
            lambda growing: _tags(self._folder / LOG, growing),
            worker,
            room=lambda size: self._quota.room(film, size),
            ended=self._ended,
            done=lambda done: self._recorded(worker, done),
        )
        with self._lock:
            closed = self._closed
            if not closed:
                self._recording = recording
        if closed:  # the film was over meanwhile, and nobody would end it
            self._saves.recorded(film, worker)
        return None

    def stop(self, ended: RecordingEnd = "asked", why: str = "") -> None:
        """End the recording and have its file finished; nothing to do without one."""
        with self._lock:
            recording, self._recording = self._recording, None
        if recording is not None:
            recording.end(ended, why)

    def save_last(self, seconds: float) -> Problem | None:
        """Save the last seconds that were shown, at most a minute, or say why not."""
        with self._lock:
            frames = list(self._ring)[-max(1, round(seconds * self._fps)) :]
        if not frames:
            return Problem(message="There is nothing to save yet.", action="Wait for the film.", code="empty")
        path = self._new_file("last", "mp4")
        held, log = sum(map(len, frames)), self._folder / LOG
        return self._add("last", lambda: self._film_of(_pictures(deque(frames)), path, log), held=held)

    def save_still(self) -> Problem | None:
        """Save the frame that is on screen, as it was made, or say why not."""
        with self._lock:
            pixels = self._last
        if pixels is None:
            return Problem(message="There is no frame yet.", action="Wait for the film.", code="empty")
        path = self._new_file("still", "png")
        return self._add("snapshot", lambda: self._still(pixels, path), held=pixels.nbytes, picture=True)

    def save_audition(self, pixels: NDArray[np.uint8], name: str) -> Problem | None:
        """Save a clip of film that was not shown, in the place of the last one, or say why not.

        `name` goes with the message.
        """
        return self._add("audition", lambda: self._audition_of(pixels), held=pixels.nbytes, picture=True, name=name)

    def save_take(self, pixels: NDArray[np.uint8], seed: int) -> Problem | None:
        """Save a clip of a film that begins with this seed, or say why not."""
        with self._lock:
            self._takes += 1
            number, first = self._takes, self._first_take
        return self._add(
            "take", lambda: self._take_of(pixels, number, first), held=pixels.nbytes, picture=True, name=str(seed)
        )

    def forget_takes(self) -> None:
        """Let those that come take the place of those that were made."""
        with self._lock:
            self._first_take = self._takes + 1

    def close(self) -> None:
        """Let go of everything; what was asked for is finished all the same. Never blocks."""
        with self._lock:
            self._closed = True
        self.stop("over")
        with self._lock:
            self._ring.clear()
            self._ring_bytes = 0
            self._last = None

    # ------------------------------------------------------------------ on a worker's thread

    def _film_of(self, frames: Iterable[NDArray[np.uint8]], path: Path, log: Path | None = None) -> Path:
        from app.media.join import join

        half = path.with_name(f".{path.stem}.part.mp4")  # what a film is goes by its ending
        film: FilmWriter | None = None
        try:
            begun = time.monotonic()
            for pixels in frames:
                film = film or growing_film(half, pixels, self._fps)
                film.write(pixels[None])
                self._saves.rest(time.monotonic() - begun)
                begun = time.monotonic()
            assert film is not None  # nobody saves no frames
            film.close()
            join([half], path, metadata={} if log is None else _tags(log, half))
        finally:
            if film is not None:
                film.abandon()
            half.unlink(missing_ok=True)
        return path

    def _still(self, pixels: NDArray[np.uint8], path: Path) -> Path:
        from PIL import Image

        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f".{path.name}.part")
        try:
            Image.fromarray(pixels).save(half, "PNG")
            half.replace(path)
        finally:
            half.unlink(missing_ok=True)
        return path

    def _audition_of(self, pixels: NDArray[np.uint8]) -> Path:
        path = self._film_of(pixels, self._folder / f"audition-{self._auditions + 1}.mp4")
        (self._folder / f"audition-{self._auditions}.mp4").unlink(missing_ok=True)
        self._auditions += 1
        return path

    def _take_of(self, pixels: NDArray[np.uint8], number: int, first: int) -> Path:
        path = self._film_of(pixels, self._folder / f"take-{number}.mp4")
        for old in range(max(1, first - TAKES_KEPT), first):
            (self._folder / f"take-{old}.mp4").unlink(missing_ok=True)
        return path

    # ------------------------------------------------------------------ what becomes of files

    def _add(
        self, kind: SavedKind, make: Callable[[], Path], *, held: int, picture: bool = False, name: str = ""
    ) -> Problem | None:
        def save() -> None:
            try:
                self._quota.room(self._folder.name, held)
                path = make()
            except Stopped:
                return
            except Exception as error:
                self._failed(error)
            else:
                self._tell(Saved(kind=kind, name=path.name, id=name))

        try:
            self._saves.add(self._folder.name, save, held=held, picture=picture)
        except Crowded as error:
            return _refusal(error, "audition" if kind in ("audition", "take") else "save")
        return None

    def _recorded(self, worker: Worker, done: Path | Exception | None) -> None:
        self._saves.recorded(self._folder.name, worker)
        if isinstance(done, Path):
            self._tell(Saved(kind="recording", name=done.name))
        elif done is not None:
            self._failed(done)

    def _new_file(self, kind: str, ending: str) -> Path:
        """A name that no file of this film has: its second, in that second a number that only grows, and its words."""
        stamp = f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
        with self._lock:
            same, number = self._stamps.get(kind, ("", 0))
            number = number + 1 if same == stamp else 0
            self._stamps[kind] = (stamp, number)
        words = re.sub(r"[^a-z0-9]+", "-", self.words().lower()).strip("-")[:LONGEST_WORDS].rstrip("-")
        return self._folder / f"{stamp}{f'-{number}' if number else ''}{words and f'-{words}'}.{ending}"

    def _trim(self) -> None:
        while self._ring and self._ring_bytes > self._memory:
            self._ring_bytes -= len(self._ring.popleft())

    def _failed(self, error: Exception) -> None:
        _log.warning("a file could not be saved", exc_info=error, extra={"session": self._folder.name})
        self._tell(Problem(message=why_unsaved(error), action="The film goes on.", code="save"))


def _refusal(error: Crowded, code: str = "save") -> Problem:
    return Problem(message=str(error), action="Try again when one is finished.", code=code)


def _tags(log: Path, film: Path) -> dict[str, str]:
    from app.record.provenance import film_tags

    return film_tags(log, film)


def _pictures(jpegs: deque[bytes]) -> Iterator[NDArray[np.uint8]]:
    """Frames of JPEGs, which are let go of one by one."""
    import numpy as np
    from PIL import Image

    while jpegs:
        with Image.open(BytesIO(jpegs.popleft())) as picture:
            yield np.asarray(picture)
