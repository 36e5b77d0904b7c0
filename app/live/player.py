"""Player of a live film: every frame is compressed once, when its time has come, and handed to all who watch.

Frames are paced by content time. After a stall the clock is set anew, so nothing is ever played faster to catch up;
a frame of an old epoch is dropped wherever it waits.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from threading import Condition, Lock, Thread
from typing import TYPE_CHECKING, Protocol

from app.config.table import Live
from app.live.frame_header import JPEG
from app.live.messages import Applied, Overtaken

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydantic import BaseModel

    from app.live.pictures import PictureMark
    from app.live.recorder import Recorder
    from pipelines.types import Chunk

_FPS_SECONDS = 2.0
_HOPS = (("recache", "conditioning"), ("denoise", "denoise"), ("remember", "remember"), ("decode", "decode"))
"""Parts of a receipt's time, and what pipelines.types.Chunk calls them."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LiveFrame:
    """One compressed frame; `t` is film time, `made` the unix time at which its chunk was finished.

    `source` is the picture of a camera that it was made of.
    """

    payload: bytes
    codec: int
    key: bool
    epoch: int
    seq: int
    frame: int
    t: float
    made: float
    source: PictureMark | None = None


class Viewer(Protocol):
    """Somebody who watches."""

    def offer(self, frame: LiveFrame) -> None:
        """Take a frame, in the place of one not sent yet; never blocks."""
        ...

    def tell(self, event: BaseModel) -> None:
        """Take a message; never blocks; from any thread."""
        ...

    @property
    def credit(self) -> int:
        """How many frames it may still be sent before it has to draw one."""
        ...

    @property
    def driver(self) -> bool:
        """Whether its commands count."""
        ...


@dataclass(frozen=True, slots=True)
class Receipt:
    """A prompt that begins with a chunk; `since` is when it was submitted, on the session's clock."""

    id: str
    since: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was not shown any more: of every chunk that lost frames how many were shown, and receipts of prompts that
    were never seen."""

    frames: dict[int, int]
    receipts: tuple[Receipt, ...] = ()


@dataclass(frozen=True, slots=True)
class _Due:
    """A receipt that is due with a chunk, which was begun and finished then, and what its making took."""

    receipt: Receipt
    chunk: int
    begun: float
    finished: float
    seconds: Mapping[str, float]

    def parts(self, shown: float, encoded: float) -> dict[str, float]:
        """Where the time went, in milliseconds."""
        made = {name: self.seconds.get(hop, 0.0) for name, hop in _HOPS}
        parts = {
            "wait": self.begun - self.receipt.since,
            **made,
            "rest": self.finished - self.begun - sum(made.values()),
            "pacing": shown - self.finished,
            "encode": encoded - shown,
        }
        return {name: round(1000 * seconds, 1) for name, seconds in parts.items()}


@dataclass(frozen=True, slots=True)
class _Waiting:
    pixels: NDArray[np.uint8]
    frame: int
    chunk: int
    index: int
    epoch: int
    made: float
    drift: float | None
    source: PictureMark | None


class Player:
    """What one session shows, and when.

    Args:
        fps: of the film.
        recorder: gets every frame that is shown.
        clock: seconds that only go forward.
        seq: of the first frame.
    """

    def __init__(self, fps: float, recorder: Recorder, clock: Callable[[], float], *, seq: int = 0) -> None:
        self.fps, self.recorder, self.seq = fps, recorder, seq
        self.viewers: tuple[Viewer, ...] = ()
        self.quality = Live.jpeg_quality
        self.latest: bytes | None = None
        self.frame = -1
        self.encoded = 0
        self.drift: float | None = None
        self.reused: float | None = None
        self.prompt_ms: float | None = None
        self.paused = False
        self._clock, self._period = clock, 1 / fps
        self._lock = Lock()
        self._waiting: deque[_Waiting] = deque()
        self._next: float | None = None  # when the next frame is due; None before the first
        self._epoch = 0
        self._receipts: list[_Due] = []
        self._shown_at: deque[float] = deque()

    # ------------------------------------------------------------------ the engine's side

    def push(
        self,
        chunk: Chunk,
        receipts: Iterable[Receipt],
        marks: Sequence[PictureMark] = (),
        *,
        epoch: int,
        made: float,
        begun: float,
    ) -> tuple[float, Dropped]:
        """Take a chunk that was begun at `begun` and is finished now, which is `made` in unix time.

        `marks` are the pictures that its frames were made of, in order.

        Returns:
            By how many seconds it came too late, and, if its epoch is new, what is not shown because of it.
        """
        assert chunk.pixels is not None
        now = self._clock()
        late, lost = 0.0, Dropped({})
        with self._lock:
            if epoch != self._epoch:
                lost = self._drop()
                self._epoch = epoch
                self._next = now
            elif not self._waiting:
                late = 0.0 if self._next is None else max(0.0, now - self._next)
                self._next = now if self._next is None else max(self._next, now)
            for index, (pixels, frame) in enumerate(zip(chunk.pixels, chunk.pixel, strict=True)):
                source = marks[index] if index < len(marks) else None
                self._waiting.append(_Waiting(pixels, frame, chunk.index, index, epoch, made, chunk.drift, source))
            again = chunk.reused
            self.reused = None if again is None else again.layers / max(1, again.of_layers)
            self._receipts += [_Due(receipt, chunk.index, begun, now, chunk.seconds) for receipt in receipts]
        return late, lost

    def deadline(self, now: float) -> float:
        """When there will be nothing left to show."""
        with self._lock:
            if self._next is None:
                return now
            return self._next + len(self._waiting) * self._period

    @property
    def stocked(self) -> bool:
        """Whether a chunk waits of which no frame has been shown."""
        with self._lock:
            return any(waiting.index == 0 for waiting in self._waiting)

    def idle(self) -> None:
        """Nobody watched: what comes next is not late."""
        with self._lock:
            self._next = None if not self._waiting else self._next

    def clear(self) -> Dropped:
        """Show nothing more of what waits."""
        with self._lock:
            lost, self._next = self._drop(), None
        return lost

    def _drop(self) -> Dropped:
        lost = {waiting.chunk: waiting.index for waiting in reversed(self._waiting)}
        dropped = Dropped(lost, tuple(due.receipt for due in self._receipts))
        self._waiting.clear()
        self._receipts.clear()
        return dropped

    # ------------------------------------------------------------------ the encode thread's side

    def pause(self, paused: bool) -> None:
        """Hold the picture, or go on with the next frame at once."""
        with self._lock:
            self.paused = paused
            self._next = None if self._next is None else self._clock()

    def due(self) -> float | None:
        """When the next frame is to be shown."""
        with self._lock:
            return self._next if self._waiting and not self.paused else None

    def show(self, now: float) -> bool:
        """Show the next frame if its time has come; True if it was the first of its chunk."""
        with self._lock:
            if not self._waiting or self.paused or self._next is None or self._next > now:
                return False
            waiting = self._waiting.popleft()
            # Late by more than a frame: the clock is set anew, or the frames behind would come in a burst.
            self._next = (self._next if now - self._next < self._period else now) + self._period
            self.seq = (self.seq + 1) & 0xFFFFFFFF
        payload = _jpeg(waiting.pixels, self.quality)
        self.encoded += 1
        self.recorder.add(waiting.pixels, payload)
        self.latest, self.frame, self.drift = payload, waiting.frame, waiting.drift
        t = waiting.frame / self.fps
        epoch, source = waiting.epoch & 0xFFFF, waiting.source
        shown = LiveFrame(payload, JPEG, True, epoch, self.seq, waiting.frame, t, waiting.made, source)
        drivers = [viewer for viewer in self.viewers if viewer.driver]
        reached = not drivers or any(viewer.credit > 0 for viewer in drivers)
        for viewer in self.viewers:
            viewer.offer(shown)
        self._shown_at.append(now)
        if reached:
            self._applied(waiting, t, now, drivers)
        return waiting.index == 0

    def fps_shown(self, now: float) -> float:
        """Frames shown a second, over the last two."""
        while self._shown_at and self._shown_at[0] <= now - _FPS_SECONDS:
            self._shown_at.popleft()
        return len(self._shown_at) / _FPS_SECONDS

    def _applied(self, waiting: _Waiting, t: float, shown: float, drivers: list[Viewer]) -> None:
        with self._lock:
            done = [due for due in self._receipts if due.chunk <= waiting.chunk]
            self._receipts = [due for due in self._receipts if due.chunk > waiting.chunk]
        encoded = self._clock()
        newest = max((due.chunk for due in done), default=0)
        seen = [due for due in done if due.chunk == newest]
        for due in done:
            if due.chunk < newest:  # its chunks went by while the driver took no frame
                for viewer in drivers:
                    viewer.tell(Overtaken(id=due.receipt.id, by=seen[-1].receipt.id))
        for due in seen:
            name, ms, parts = due.receipt.id, (encoded - due.receipt.since) * 1000, due.parts(shown, encoded)
            self.prompt_ms = ms
            applied = Applied(id=name, chunk=waiting.chunk, frame=waiting.frame, t=t, ms=round(ms, 1), parts=parts)
            for viewer in drivers:
                viewer.tell(applied)


class PlayedSession(Protocol):
    """A session, as the encode thread sees it."""

    @property
    def id(self) -> str: ...

    @property
    def player(self) -> Player: ...

    def report(self, now: float) -> float:
        """Tell viewers how it goes if it is time, and return when it will be."""
        ...


class EncodeThread:
    """Shows the frames of all sessions, each at its time.

    Args:
        sessions: all there are.
        clock: seconds that only go forward.
        begun: called when the first frame of a chunk has been shown: the next may be begun.
    """

    def __init__(
        self, sessions: Callable[[], Iterable[PlayedSession]], clock: Callable[[], float], begun: Callable[[], None]
    ) -> None:
        self._sessions, self._clock, self._begun = sessions, clock, begun
        self._wake = Condition()
        self._woken = self._closed = False
        self._thread = Thread(target=self._run, name="rivulet-encode", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Something has changed."""
        with self._wake:
            self._woken = True
            self._wake.notify()

    def close(self, seconds: float) -> bool:
        """End the thread, and wait for it at most so long; whether it has ended."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def step(self, now: float) -> float | None:
        """Show what is due, and return when to look again; None: when woken."""
        again: list[float] = []
        for session in self._sessions():
            try:
                if session.player.show(now):
                    self._begun()
                due = session.player.due()
                again += [session.report(now), *([] if due is None else [due])]
            except Exception:  # one session's broken viewer or file must not stop the others' films
                _log.exception("a frame could not be shown", extra={"session": session.id})
                again.append(now + 0.1)
        return min(again, default=None)

    def _run(self) -> None:
        while True:
            again = self.step(self._clock())
            with self._wake:
                if self._closed:
                    return
                if not self._woken and (again is None or again > self._clock()):
                    self._wake.wait(None if again is None else max(0.0, again - self._clock()))
                self._woken = False


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
