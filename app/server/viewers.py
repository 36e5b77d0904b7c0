"""Flow control for one viewer of a live film: the newest frame, credit for how many more may be sent, and messages.

The encode thread hands frames over and never waits: what a slow link has not taken is replaced, so its latency is
bounded by three frames and nobody else notices.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from pydantic import BaseModel

from app.live.frame_header import JPEG, FrameHeader, pack_frame
from app.live.messages import Applied, Done, Metrics, QueueState, Saved, Track
from app.live.source_messages import PictureTaken, SourceFigures
from app.server.metrics import ServerMetrics

if TYPE_CHECKING:
    from app.live.player import LiveFrame

CREDIT = 3
"""Frames that may be on their way without having been drawn."""
BACKLOG = 256
"""Messages that may wait for a viewer; one that takes none is not there any more."""
STUCK_SECONDS = 2.0
"""After this long a reader of pictures that takes nothing does not count as watching."""
SEND_SECONDS = 20.0
"""After this long a stuck socket is closed."""
WHOLE_SECONDS = 0.1
"""Between two messages that tell the whole of something, as a queue of a hundred prompts: nobody reads them faster."""
_WHOLE = (Track, QueueState, SourceFigures)


class Outlet(Protocol):
    """The part of a WebSocket that a viewer is sent through."""

    async def send_text(self, data: str) -> None: ...

    async def send_bytes(self, data: bytes) -> None: ...


class Gone(Exception):
    """The viewer does not take what it is sent."""


class _Texts:
    """JSON of the newest messages, made once for all viewers who are told the same."""

    def __init__(self, kept: int = 8) -> None:
        self._kept: deque[tuple[BaseModel, str]] = deque(maxlen=kept)

    def of(self, event: BaseModel) -> str:
        """The message as it is sent."""
        for known, text in self._kept:
            if known is event:
                return text
        text = event.model_dump_json()
        self._kept.append((event, text))
        return text


_texts = _Texts()  # of the event loop, which alone sends


class _Newest:
    """The newest frame, handed from the encode thread to the event loop."""

    def __init__(self) -> None:
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._lock = threading.Lock()
        self._wake = asyncio.Event()
        self._frame: LiveFrame | None = None
        self.replaced = 0

    def offer(self, frame: "LiveFrame") -> None:
        """Put `frame` in the place of one that has not been taken; a frame from before a reset comes too late."""
        with self._lock:
            if self._frame is not None:
                if (frame.epoch - self._frame.epoch) & 0x8000:
                    return
                self.replaced += 1
            self._frame = frame
        self.wake()

    def take(self) -> "LiveFrame | None":
        """Return the newest frame once."""
        with self._lock:
            frame, self._frame = self._frame, None
        return frame

    def wake(self) -> None:
        """Wake the sender, from any thread; the loop is closed when the server has ended."""
        if threading.get_ident() == self._thread:
            self._wake.set()
            return
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake.set)

    def wake_in(self, seconds: float) -> None:
        """Wake the sender later, from the event loop."""
        self._loop.call_later(seconds, self._wake.set)

    async def something(self) -> None:
        """Wait until there may be something to send."""
        await self._wake.wait()
        self._wake.clear()


class SocketViewer:
    """A page or a program at a socket.

    Attributes:
        driver: whether its commands count.
        may_drive: whether it came with the token that allows to drive.
        client: what a page calls itself, so that it finds its own place again after a reload.
        files: what stands before and behind a file's name in its address.
        figures: of the server that it watches.
    """

    def __init__(self, *, may_drive: bool = True, client: str = "", figures: ServerMetrics | None = None) -> None:
        self.driver = False
        self.may_drive = may_drive
        self.client = client
        self.files: tuple[str, str] = ("", "")
        self.figures = figures or ServerMetrics()
        self._newest = _Newest()
        self._lock = threading.Lock()
        self._unacked: deque[int] = deque()
        self._told: deque[BaseModel] = deque()
        self._taken: dict[int, PictureTaken] = {}
        self._whole: dict[type[BaseModel], BaseModel] = {}
        self._whole_at = float("-inf")
        self._metrics: Metrics | None = None
        self._gone = False

    @property
    def credit(self) -> int:
        """Frames that may still be sent before one is acknowledged."""
        with self._lock:
            return CREDIT - len(self._unacked)

    @property
    def dropped(self) -> int:
        """Frames that were replaced before they could be sent."""
        return self._newest.replaced

    def offer(self, frame: "LiveFrame") -> None:
        """Take the newest frame; never blocks."""
        self._newest.offer(frame)

    def tell(self, event: BaseModel) -> None:
        """Take a message; never blocks. What tells the whole of something takes the place of an older one that still
        waits, for WHOLE_SECONDS at most; a receipt of a source's picture that of its older one; everything else
        arrives in order."""
        with self._lock:
            if isinstance(event, _WHOLE):
                self._whole[type(event)] = event
            elif isinstance(event, PictureTaken):
                self._taken[event.source] = event
            elif isinstance(event, Metrics):
                self._metrics = event
            elif len(self._told) < BACKLOG:
                self._told.append(event)
            else:
                self._gone = True
        self._newest.wake()

    def acknowledge(self, seq: int) -> None:
        """Count frames up to `seq` as drawn."""
        with self._lock:
            while self._unacked and (seq - self._unacked[0]) & 0x80000000 == 0:
                self._unacked.popleft()
        self._newest.wake()

    async def send_to(self, outlet: Outlet) -> None:
        """Send what comes until a Done has been sent.

        Raises:
            Gone: the link has been stuck too long.
        """
        while True:
            for event in self._take_told():
                if isinstance(event, Saved):
                    event = event.model_copy(update={"url": event.name.join(self.files)})
                if isinstance(event, Applied):
                    self.figures.prompt_to_picture.observe(event.ms / 1000)
                await self._send(outlet.send_text(_texts.of(event)))
                if isinstance(event, Done):
                    return
            frame = self._newest.take() if self.credit > 0 else None
            if frame is None:
                await self._newest.something()
                continue
            with self._lock:
                self._unacked.append(frame.seq)
            self.figures.frames_sent.inc()
            self.figures.frame_age.observe(max(0.0, time.time() - frame.made))
            source = None if frame.source is None else (frame.source.seq, frame.source.captured)
            about = (frame.seq, frame.frame, frame.t, frame.made, frame.epoch, frame.codec, frame.key)
            header = FrameHeader(*about, source if self.driver else None)
            await self._send(outlet.send_bytes(pack_frame(header, frame.payload)))

    def _take_told(self) -> list[BaseModel]:
        with self._lock:
            if self._gone:
                raise Gone
            told, metrics = [*self._taken.values(), *self._told], self._metrics
            self._told.clear()
            self._taken.clear()
            self._metrics = None
            ended = any(isinstance(event, Done) for event in told)
            whole = self._take_whole(at_once=ended)
        if ended:
            return [*whole, *told]
        if metrics is not None:
            whole.append(metrics.model_copy(update={"dropped": self.dropped}) if self.dropped else metrics)
        return [*told, *whole]

    def _take_whole(self, *, at_once: bool) -> list[BaseModel]:
        if not self._whole:
            return []
        now = time.monotonic()
        wait = self._whole_at + WHOLE_SECONDS - now
        if wait > 0 and not at_once:
            self._newest.wake_in(wait)
            return []
        told, self._whole, self._whole_at = list(self._whole.values()), {}, now
        return told

    async def _send(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await sending
        except TimeoutError:
            raise Gone from None


class PictureViewer:
    """A reader of /live.mjpg: watches, never drives, and is given the next frame when it has taken the last."""

    driver = False

    def __init__(self) -> None:
        self._newest = _Newest()
        self._writing_since: float | None = None
        self._over = False

    @property
    def credit(self) -> int:
        """None once a frame has been stuck on its way out for STUCK_SECONDS: nobody reads."""
        since = self._writing_since
        return CREDIT if since is None or time.monotonic() - since < STUCK_SECONDS else 0

    def offer(self, frame: "LiveFrame") -> None:
        """Take the newest frame; never blocks."""
        if frame.codec == JPEG:
            self._newest.offer(frame)

    def tell(self, event: BaseModel) -> None:
        """Pictures only; but they end with the session."""
        if isinstance(event, Done):
            self._over = True
            self._newest.wake()

    async def next(self) -> bytes | None:
        """Return the next JPEG once the last has been taken, None when the session is over."""
        self._writing_since = None
        while True:
            frame = self._newest.take()
            if frame is not None or self._over:
                self._writing_since = time.monotonic()
                return None if frame is None else frame.payload
            await self._newest.something()
