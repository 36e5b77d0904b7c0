"""Stand-ins for the tests of the live server: an engine whose films are made by the test, or by a clock."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image
from pydantic import BaseModel

from app.live.engine import Busy
from app.live.frame_header import JPEG
from app.live.messages import (
    Accepted,
    Applied,
    Do,
    Done,
    Hello,
    LookUp,
    Problem,
    PromptUpdate,
    Saved,
    SessionStart,
    Stop,
    Words,
)
from app.live.picture_header import Upload
from app.live.player import LiveFrame, Viewer
from app.live.source_messages import BeginningSet, SourceSet
from app.server.doors import Doors
from app.server.main import find_place, server_config

SECRET = b"0" * 32


def jpeg(level: int = 128) -> bytes:
    """A small grey picture."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (level, level, level)).save(file, "JPEG")
    return file.getvalue()


def live_frame(payload: bytes, seq: int, fps: float = 16.0, *, codec: int = JPEG, epoch: int = 0) -> LiveFrame:
    """Frame `seq` of a film that never jumped, made now."""
    return LiveFrame(payload, codec, True, epoch, seq, seq, seq / fps, time.time())


class PaintedVideo:
    """What a film is made of, where nothing is: it notes what it was asked."""

    def __init__(self, submitted: list[BaseModel]) -> None:
        self._submitted = submitted

    def choose(self, asked: SourceSet, viewer: Viewer) -> None:
        self._submitted.append(asked)

    def gather(self, asked: BeginningSet, viewer: Viewer) -> None:
        self._submitted.append(asked)

    def offer(self, upload: Upload, viewer: Viewer) -> None:
        """A picture that nobody takes."""


class PaintedSession:
    """A film whose frames come when `paint` is called; answers a prompt at once with both receipts."""

    def __init__(self, name: str, folder: Path) -> None:
        self.id, self.folder = name, folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.fps, self.width, self.height, self.state = 16.0, 16, 16, "playing"
        self.over = False
        self.prompt = "a red ball"
        self.viewers: list[Viewer] = []
        self.submitted: list[BaseModel] = []
        self.film = SimpleNamespace(video=PaintedVideo(self.submitted))
        self.seq = 0
        self._last: bytes | None = None

    def attach(self, viewer: Viewer) -> None:
        self.viewers.append(viewer)

    def detach(self, viewer: Viewer) -> None:
        self.viewers = [other for other in self.viewers if other is not viewer]

    def hello(self, viewer: Viewer) -> Hello:
        return Hello(
            session=self.id,
            role="driver" if viewer.driver else "viewer",
            fps=self.fps,
            width=self.width,
            height=self.height,
            prompt=self.prompt,
            seed=7,
            preset="painted",
            model="painted",
            chunk_frames=12,
            paused=self.state == "paused",
            knows={
                "shapes": ["ball", "star"],
                "colours": ["red"],
                "scenes": ["sea"],
                "words": ["ball", "star", "sunset"],
            },
        )

    def submit(self, message: BaseModel, viewer: Viewer) -> None:
        self.submitted.append(message)
        if isinstance(message, Stop):
            self.over = True
            self.tell(Done(reason="stopped"))
        elif isinstance(message, Do) and message.action == "snapshot":
            (self.folder / "snap.jpg").write_bytes(jpeg())
            self.tell(Saved(kind="snapshot", name="snap.jpg"))
        elif isinstance(message, LookUp):
            self.tell(Words(id=message.id, unknown={"cat": []} if "cat" in message.prompt else {}))
        elif isinstance(message, PromptUpdate):
            if "xyzzy" in str(message.prompt):
                raise ValueError("the prompt has a word that nobody knows")
            unknown: dict[str, list[str]] = {"cat": []} if "cat" in str(message.prompt) else {}
            self.tell(Accepted(id=message.id, chunk=2, at=time.time(), unknown=unknown))
            self.tell(Applied(id=message.id, chunk=2, frame=24, t=1.5, ms=40.0))
        elif isinstance(message, SessionStart):
            self.prompt = str(message.prompt)

    def tell(self, event: BaseModel) -> None:
        for viewer in self.viewers:
            viewer.tell(event)

    def paint(self, count: int = 1) -> None:
        """Make frames; each is as grey as its number."""
        for _ in range(count):
            self._last = jpeg(self.seq % 256)
            for viewer in self.viewers:
                viewer.offer(live_frame(self._last, self.seq, self.fps))
            self.seq += 1

    def latest_jpeg(self) -> bytes | None:
        return self._last


class PaintedEngine:
    """app.live.engine.LiveEngine with painted films; a session that nobody watches gives its place up."""

    def __init__(self, *args: Any, folder: Path, max_sessions: int = 4, **kwargs: Any) -> None:
        self.folder, self.max_sessions = folder, max_sessions or 4
        self.sessions: dict[str, PaintedSession] = {}
        self.ready = True
        self.opened = 0
        self.clock: threading.Thread | None = None
        self._over = threading.Event()

    def open(self, session_id: str | None = None) -> PaintedSession:
        if session_id in self.sessions:
            return self.sessions[session_id]
        if sum(bool(session.viewers) for session in self.sessions.values()) >= self.max_sessions:
            raise Busy(1)
        self.opened += 1
        name = session_id or f"film{self.opened}"
        self.sessions[name] = PaintedSession(name, self.folder)
        return self.sessions[name]

    def metrics(self) -> dict[str, float]:
        return {"sessions": float(len(self.sessions)), "chunk_seconds": 0.125}

    def start(self) -> None:
        """Paint 16 frames a second in every film."""

        def tick() -> None:
            while not self._over.wait(1 / 16):
                for session in list(self.sessions.values()):
                    session.paint()

        self.clock = threading.Thread(target=tick, daemon=True)
        self.clock.start()

    def leave_off(self) -> None:
        self._over.set()

    def close(self) -> None:
        self._over.set()
        if self.clock is not None:
            self.clock.join()


@contextmanager
def served(app: Any, doors: Doors | None = None) -> Iterator[str]:
    """A real server on a free port; gives its address, host:port."""
    import uvicorn

    place = find_place("127.0.0.1", 0, doors)
    server = uvicorn.Server(server_config(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place.listener]}, daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        yield place.address
    finally:
        server.should_exit = True
        thread.join(10)
        place.listener.close()
        assert not thread.is_alive()


def until(true: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def problem_of(messages: list[dict[str, Any]]) -> Problem:
    """The first problem among messages."""
    return Problem(**next(message for message in messages if message["type"] == "error"))
