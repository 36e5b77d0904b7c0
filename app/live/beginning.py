"""Beginning of a live film with pictures of a page: they are gathered, and then the film begins anew with them.

Unlike those of a camera, none of them is left out for a newer one: the page sends one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from app.live.picture_header import Upload
from app.live.pictures import BadPicture, decoded
from app.live.source_messages import BeginningSet
from app.live.worker import Worker
from app.loading.live import LiveModel
from app.media.fit import Fit
from app.record.kept_input import KeptPicture
from app.record.session_log import MadeOf

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a film begins with.

    Attributes:
        asked: by whom it was asked for.
        pictures: as they came, one for each frame.
        frames: uint8 RGB [T, H, W, 3].
        parts: latent frames of the chunks that they are.
    """

    asked: BeginningSet
    pictures: Sequence[KeptPicture]
    frames: NDArray[np.uint8]
    parts: Sequence[int]

    @property
    def source(self) -> MadeOf:
        """What the log calls it."""
        return "picture" if self.asked.kind == "image" else "clip"


class Gathering:
    """The pictures of one beginning, decoded on a thread of their own.

    Args:
        model: what makes the film.
        asked: how many there are, and of what.
        clock: seconds that only go forward.
        taken: told the number of a picture once it is decoded; on any thread.
        done: handed the beginning once it is complete, or why it cannot be; on any thread.

    Raises:
        ValueError: there are more than the film's memory holds.
    """

    def __init__(
        self,
        model: LiveModel,
        asked: BeginningSet,
        clock: Callable[[], float],
        taken: Callable[[int], object],
        done: Callable[[Beginning | BadPicture], object],
    ) -> None:
        most = 1 if asked.kind == "image" else model.clip_frames
        if asked.count > most:
            raise ValueError(f"A film here begins with {most} pictures at most. Send the last {most} of the clip.")
        self.asked = asked
        self._model, self._clock, self._taken, self._done = model, clock, taken, done
        self._fit = Fit(model.height, model.width, asked.fit)
        self._lock = Lock()
        self._came = 0
        self._closed = False
        self._pictures: list[KeptPicture] = []
        self._frames: list[NDArray[np.uint8]] = []
        self._newest = clock()
        self._worker = Worker("rivulet-beginning")

    def offer(self, upload: Upload) -> None:
        """Take the next picture; never blocks."""
        with self._lock:
            if self._closed or self._came == self.asked.count:
                return
            self._came += 1
            self._newest = self._clock()
        self._worker.give(lambda: self._decode(upload))

    def silent(self, now: float) -> float:
        """For how many seconds no picture has come."""
        return now - self._newest

    def close(self) -> None:
        """Forget what came."""
        with self._lock:
            self._closed = True
        self._worker.close(0.0, drop=True)

    def _decode(self, upload: Upload) -> None:
        try:
            frame = decoded(upload, self._fit)
        except BadPicture as error:
            self.close()
            self._done(error)
            return
        with self._lock:
            if self._closed:
                return
            self._frames.append(frame)
            self._pictures.append(KeptPicture(upload.codec, self._fit.how, 1.0, upload.payload))
            complete = len(self._frames) == self.asked.count
            self._closed = complete
        self._taken(upload.seq)
        if complete:
            self._worker.close(0.0, drop=True)
            self._done(self._whole())

    def _whole(self) -> Beginning:
        """A picture is held for the first chunk; of a clip that is shorter than the memory, its first one."""
        import numpy as np

        rhythm = self._model.rhythm
        parts = [rhythm.first] if self.asked.kind == "image" else rhythm.within(self._model.remembers)
        missing = rhythm.start_frame(len(parts)) - len(self._frames)
        frames = [*self._frames[:1] * missing, *self._frames]
        return Beginning(self.asked, [*self._pictures[:1] * missing, *self._pictures], np.stack(frames), parts)
