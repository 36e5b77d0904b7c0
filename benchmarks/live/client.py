"""A server of films in a process of its own, and viewers that have the network they are told to have."""

# pyright: reportUnknownMemberType=false
# (websockets' connect is typed loosely.)

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from app.live.frame_header import FrameHeader

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Link:
    """A network emulated at the client: `delay` seconds each way, `rate` bits a second towards it (0: no limit)."""

    name: str
    delay: float = 0.0
    rate: float = 0.0


LOCAL = Link("this machine")


@dataclass(slots=True)
class Client:
    """A viewer that acknowledges what has arrived over its link.

    `frames` are (arrival, header) in the client's clock, `told` (arrival, message).
    """

    socket: Any
    link: Link = LOCAL
    frames: list[tuple[float, FrameHeader]] = field(default_factory=list)
    told: list[tuple[float, dict[str, Any]]] = field(default_factory=list[tuple[float, dict[str, Any]]])
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def listen(self) -> None:
        """Take messages until the socket ends."""
        wire: asyncio.Queue[tuple[float, str | bytes]] = asyncio.Queue()
        arriving = asyncio.create_task(self._arrive(wire))
        free = 0.0
        try:
            async for message in self.socket:
                now = time.time()
                # The bytes follow those before them, and then travel.
                free = max(free, now) + (8 * len(message) / self.link.rate if self.link.rate else 0.0)
                await wire.put((free + self.link.delay, message))
            # What came right before the end has yet to arrive: a refusal above all.
            landed = asyncio.create_task(wire.join())
            await asyncio.wait({arriving, landed}, return_when=asyncio.FIRST_COMPLETED)
            landed.cancel()
        finally:
            arriving.cancel()

    async def _arrive(self, wire: asyncio.Queue[tuple[float, str | bytes]]) -> None:
        from app.live.frame_header import unpack_frame

        acks = set[asyncio.Task[None]]()
        while True:
            at, message = await wire.get()
            if (wait := at - time.time()) > 0:
                await asyncio.sleep(wait)
            async with self.changed:
                if isinstance(message, str):
                    self.told.append((time.time(), json.loads(message)))
                else:
                    header, _ = unpack_frame(message)
                    self.frames.append((time.time(), header))
                    acks.add(task := asyncio.create_task(self._ack(header.seq)))
                    task.add_done_callback(acks.discard)
                self.changed.notify_all()
            wire.task_done()

    async def _ack(self, seq: int) -> None:
        await asyncio.sleep(self.link.delay)
        with suppress(Exception):  # the socket may have ended meanwhile
            await self.send(type="ack", seq=seq)

    async def send(self, **message: Any) -> None:
        """Send a message."""
        await self.socket.send(json.dumps(message))

    async def wait(self, true: Callable[[], Any], seconds: float = 60.0) -> Any:
        """Wait until something holds of what has arrived, and return it."""
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(lambda: bool(true())), seconds)
        return true()

    def first(self, kind: str, **fields: Any) -> tuple[float, dict[str, Any]] | None:
        """The first message of a kind with these fields."""
        wanted = {"type": kind, **fields}.items()
        return next(((at, told) for at, told in self.told if wanted <= told.items()), None)


class Server:
    """`rivulet web` in a process of its own."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        self.begun = time.time()
        command = [sys.executable, "-u", "-W", "ignore", "-m", "app", "web", "--port", "0", "--no_open", "--no_perform"]
        folder.mkdir(parents=True, exist_ok=True)
        self.log = (folder / "log.txt").open("wb")
        self.process = psutil.Popen(
            [*command, "--folder", str(folder / "live"), *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = ""
        for line in self.process.stdout:
            if found := re.search(r"Ready: (http://\S+)", line):
                self.url = found[1]
                break
        self.ready = time.time()
        if not self.url:
            raise RuntimeError(f"the server did not start: {(folder / 'log.txt').read_text('utf-8')[-500:]}")

    def metrics(self) -> dict[str, float]:
        """What /metrics says, without the prefix."""
        with urllib.request.urlopen(f"{self.url}metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.split() for line in lines if line and not line.startswith("#"))
        return {name.removeprefix("rivulet_"): float(value) for name, value in pairs}

    def wait_ready(self, seconds: float = 600.0) -> float:
        """Wait until films can be made; seconds since the process began.

        Raises:
            TimeoutError: it takes longer than `seconds`.
        """
        while time.time() - self.begun < seconds:
            with suppress(OSError), urllib.request.urlopen(f"{self.url}readyz", timeout=10):
                return time.time() - self.begun
            time.sleep(0.1)
        raise TimeoutError(f"no film can be made {seconds:g} s after the start of the server")

    def log_lines(self) -> int:
        """Lines that it has written about what went wrong."""
        return Path(self.log.name).read_bytes().count(b"\n")

    def resident(self) -> int:
        """Its memory, in bytes."""
        return int(self.process.memory_info().rss)

    def resident_with_children(self) -> int:
        """Its memory and that of all processes that it has started, in bytes."""
        total = self.resident()
        for child in self.process.children(recursive=True):
            with suppress(psutil.Error):  # it has just ended
                total += int(child.memory_info().rss)
        return total

    def end(self) -> None:
        """Stop it."""
        with suppress(psutil.NoSuchProcess):
            self.process.send_signal(signal.SIGTERM)
            with suppress(psutil.TimeoutExpired):
                self.process.wait(30)
            self.process.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.log.close()

    @asynccontextmanager
    async def visit(self, link: Link = LOCAL, query: str = "", source: str | None = None) -> AsyncIterator[Client]:
        """A viewer at the socket, who comes from the address `source` of this machine."""
        from websockets.asyncio.client import connect

        address = f"{self.url.replace('http', 'ws', 1)}v1/realtime/video{query}"
        local = None if source is None else (source, 0)
        async with connect(address, max_size=None, compression=None, open_timeout=60, local_addr=local) as socket:
            client = Client(socket, link)
            listening = asyncio.create_task(client.listen())
            try:
                yield client
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
