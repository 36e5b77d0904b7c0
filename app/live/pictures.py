"""Pictures that a page sends for its film: the newest are kept, decoded on a thread of their own.

Nothing queues. One picture may wait to be decoded, and the next takes its place; of decoded ones so many are kept as
the longest chunk shows, and a moment. Whoever sends too fast loses pictures, never time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from app.live.picture_header import FORMATS, Upload
from app.live.worker import Worker
from app.media.compressed import BadPicture as BadPicture
from app.media.compressed import decoded_picture
from app.media.fit import Fit
from app.media.flatten import flattened
from app.record.kept_input import KeptPicture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BAD_IN_A_ROW = 30
"""Pictures in a row that cannot be read until their source is given up."""


@dataclass(frozen=True, slots=True)
class PictureMark:
    """Which picture a frame was made of: its number, and when it was taken by its sender's clock."""

    seq: int
    captured: float


@dataclass(frozen=True, slots=True)
class Kept:
    """A decoded picture, uint8 RGB [H, W, 3], when it arrived here, and as it came."""

    arrived: float
    mark: PictureMark
    pixels: NDArray[np.uint8]
    came: KeptPicture


class Pictures:
    """Of one source.

    Args:
        fit: the film's size, and how a picture becomes one of it.
        room: decoded pictures that are kept.
        clock: seconds that only go forward.
        taken: told the number of a picture once it, and with it all before, is decoded or given up; on any thread.
        refused: told why a picture cannot be shown, once for each source, and whether it was one too many.
        hold: how much of a picture's detail is kept (app/media/flatten.py), 0 to 1.

    Attributes:
        hold: as given; may change.
        replaced: pictures in whose place a newer one came before they were decoded.
    """

    def __init__(
        self,
        fit: Fit,
        *,
        room: int,
        clock: Callable[[], float],
        taken: Callable[[int], object],
        refused: Callable[[BadPicture, bool], object],
        hold: float = 1.0,
    ) -> None:
        self.replaced = 0
        self.hold = hold
        self._fit, self._clock, self._taken, self._refused = fit, clock, taken, refused
        self._lock = Lock()
        self._waiting: tuple[float, Upload] | None = None
        self._kept: deque[Kept] = deque(maxlen=room)
        self._bad = 0
        self._told = self._closed = False
        self._newest = clock()
        self._worker = Worker("rivulet-pictures")

    def offer(self, upload: Upload) -> None:
        """Take a picture, in the place of one that was not decoded yet; never blocks."""
        with self._lock:
            if self._closed:
                return
            asked = self._waiting is None
            self.replaced += not asked
            self._waiting = (self._clock(), upload)
        if asked:
            self._worker.give(self._decode)

    def silent(self, now: float) -> float:
        """For how many seconds no picture has come that can be shown."""
        return now - self._newest

    @property
    def newest(self) -> Kept | None:
        """The picture that came last; None before the first."""
        with self._lock:
            return self._kept[-1] if self._kept else None

    def take(self, count: int, step: float, now: float) -> list[Kept]:
        """The `count` moments that end now, `step` seconds apart, a picture each; none where none is kept.

        A moment shows the newest picture that had arrived by then, or the oldest that is kept.
        """
        with self._lock:
            kept = list(self._kept)
        if not kept:
            return []
        moments = [now - (count - 1 - index) * step for index in range(count)]
        return [
            next((each for each in reversed(kept) if each.arrived <= moment + step / 2), kept[0]) for moment in moments
        ]

    def close(self) -> None:
        """Take no more pictures and forget those that are kept."""
        with self._lock:
            self._closed, self._waiting = True, None
            self._kept.clear()
        self._worker.close(0.0, drop=True)

    def _decode(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        (arrived, upload), hold = waiting, self.hold
        try:
            pixels = flattened(decoded(upload, self._fit), hold)
        except BadPicture as error:
            self._bad += 1
            if not self._told or self._bad == BAD_IN_A_ROW:
                self._told = True
                self._refused(error, self._bad >= BAD_IN_A_ROW)
        else:
            self._bad = 0
            with self._lock:
                if self._closed:
                    return
                came = KeptPicture(upload.codec, self._fit.how, hold, upload.payload)
                self._kept.append(Kept(arrived, PictureMark(upload.seq, upload.captured), pixels, came))
                self._newest = arrived
        self._taken(upload.seq)


def decoded(upload: Upload, fit: Fit) -> NDArray[np.uint8]:
    """A picture as uint8 RGB [H, W, 3] of the size of `fit`; BadPicture if it cannot be shown."""
    return decoded_picture(upload.payload, FORMATS[upload.codec], fit)
