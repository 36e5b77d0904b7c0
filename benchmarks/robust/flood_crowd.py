"""The crowd of a flood: drivers, watchers and requests that ask a live server for as much as it lets them have.

A process of its own, so that it costs the viewer that is measured nothing but what it costs the server. Everything is
bounded: sockets, requests on their way, messages a second, and the time. What the server refuses is counted; that is
what it should do.
"""

# pyright: reportUnknownMemberType=false
# (websockets' connect is typed loosely.)

from __future__ import annotations

import asyncio
import itertools
import json
import struct
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from app.live.frame_header import MAGIC
from benchmarks.robust.flood_sockets import address as visitor_address
from benchmarks.robust.flood_sockets import many_addresses
from benchmarks.robust.fuzz_live import a_log

SOCKETS, WATCHERS, WATCHED = 200, 40, 3
"""All sockets, and those that watch the film that is measured and each of WATCHED others; of those that are left some
drive, and the rest wait for a film."""
Asking = Iterator[tuple[float, dict[str, Any]]]
"""Messages of a driver, each with the seconds until the next."""
_PAUSE = 0.5
_FOLLOW_SECONDS = 10.0
_SEQ = struct.Struct("<H6xI")  # of a frame's header: magic, and the frame's number


class Crowd:
    """Everybody.

    Args:
        url: of the server.
        query: opens the film that is measured for watching.
        films: that they can have beside it, one a driver.
        seconds: how long they stay.
    """

    def __init__(self, url: str, query: str, films: int, seconds: float) -> None:
        self.url, self.query, self.given = url, query, films
        self._sources = itertools.count() if many_addresses() else None
        self.end = time.monotonic() + seconds
        self.counted: Counter[str] = Counter()
        self.films: list[str] = []

    async def stay(self) -> None:
        """Until the time is over."""
        drivers = [self._drive([asking() for asking in asked]) for asked in drivers_of(self.given)]
        members = [self._sit(self.query) for _ in range(WATCHERS)]
        members += [self._follow(film) for film in range(min(WATCHED, self.given)) for _ in range(WATCHERS)]
        members += [self._wait() for _ in range(SOCKETS - len(members) - len(drivers))]
        members += [self._ask("v1/videos/plan", plan_body()) for _ in range(4)]
        members += [self._ask("v1/restore", log_body()) for _ in range(2)]
        await asyncio.gather(*drivers, *members)

    async def _drive(self, asked: Sequence[Asking]) -> None:
        film = ""
        while time.monotonic() < self.end:
            hello = await self._sit(film, asked)
            if hello is None:
                film = ""
            elif not film:
                film = f"?session={hello['session']}&token={hello['token']}"

    async def _ask_for(self, socket: Any, asking: Asking) -> None:
        for pause, message in asking:
            await socket.send(json.dumps(message))
            self.counted[f"sent {message.get('action', message['type'])}"] += 1
            await asyncio.sleep(pause)

    async def _follow(self, film: int) -> None:
        """Watch a film that is driven."""
        end = min(self.end, time.monotonic() + _FOLLOW_SECONDS)
        while len(self.films) <= film and time.monotonic() < end:
            await asyncio.sleep(0.1)
        if len(self.films) > film:
            await self._sit(self.films[film])

    async def _wait(self) -> None:
        """Wait for a film, behind those who drive."""
        await asyncio.sleep(_FOLLOW_SECONDS)
        await self._sit("")

    async def _sit(self, query: str, asked: Sequence[Asking] = ()) -> dict[str, Any] | None:
        """Take frames, and drive with `asked`, until the time is over or the server ends it; returns its hello."""
        tasks: list[asyncio.Task[None]] = []
        hello: dict[str, Any] | None = None
        try:
            address = f"{self.url.replace('http', 'ws', 1)}v1/realtime/video{query}"
            left = asyncio.timeout_at(asyncio.get_running_loop().time() + self.end - time.monotonic())
            source = None if self._sources is None else (visitor_address(next(self._sources) % SOCKETS), 0)
            link = connect(address, max_size=None, compression=None, open_timeout=30, local_addr=source)
            async with link as socket, left:
                async for message in socket:
                    if isinstance(message, bytes):
                        self.counted["frames"] += 1
                        magic, seq = _SEQ.unpack_from(message)
                        assert magic == MAGIC
                        await socket.send(f'{{"type": "ack", "seq": {seq}}}')
                        continue
                    told = json.loads(message)
                    kind = told["type"]
                    self.counted[f"error {told['code']}" if kind == "error" else kind.removeprefix("session.")] += 1
                    if kind == "hello" and asked:
                        hello, tasks = told, [asyncio.create_task(self._ask_for(socket, each)) for each in asked]
                        if not query:
                            self.films.append(f"?session={told['session']}&token={told['view_token']}")
        except TimeoutError:
            pass
        except (OSError, WebSocketException):
            self.counted["sockets refused or lost"] += 1
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(min(_PAUSE, max(0.0, self.end - time.monotonic())))
        return hello

    async def _ask(self, path: str, body: bytes) -> None:
        while time.monotonic() < self.end:
            status = await asyncio.to_thread(_status, self.url + path, body, max(1.0, self.end - time.monotonic() + 5))
            self.counted[f"{path}: {status}"] += 1
            await asyncio.sleep(0.01 if status == 200 else _PAUSE)


def drivers_of(films: int) -> list[tuple[Callable[[], Asking], ...]]:
    """What the driver of each film asks for: of few films one asks for more, and further ones only rewind."""
    kinds = (_rewinds, _saves, _prompts)
    return [kinds[film::films] or (_rewinds,) for film in range(films)]


def _saves() -> Asking:
    """Sixty saves at once, and then whatever makes files, for ever."""
    for _ in range(60):
        yield 0.0, {"type": "session.do", "action": "save_last", "seconds": 60}
    while True:
        for action in ("record", "snapshot", "save_last", "record_stop", "audition"):
            yield 0.1, {"type": "session.do", "action": action}


def _prompts() -> Asking:
    """Forty prompts a second, of words that nobody knows, some of them for the queue."""
    number = 0
    while True:
        number += 1
        words = " ".join(f"w{number}x{place}" for place in range(100))
        kind = ("recache", "cut", "keep")[number % 3]
        update = {"type": "session.prompt_update", "id": f"p{number}", "prompt": words[:1000], "queue": not number % 7}
        yield 0.025, update | {"transition": {"kind": kind}}


def _rewinds() -> Asking:
    """Twenty rewinds and resets a second, and changes of the memory."""
    number = 0
    yield 5.0, {"type": "session.set", "jpeg_quality": 100}
    while True:
        number += 1
        yield 0.05, {"type": "session.do", "action": "rewind", "seconds": 60}
        if not number % 10:
            yield 0.05, {"type": "session.do", "action": "reset"}
        if not number % 17:
            yield 0.05, {"type": "session.set", "window": 6 + number % 6}


def plan_body(shots: int = 2000) -> bytes:
    """A script of as many shots as people hardly write."""
    lines = [f'  - {{at: {2 * number}s, prompt: "a red ball number {number}"}}' for number in range(shots)]
    return json.dumps({"script": "\n".join(["shots:", *lines]), "script_kind": "yaml", "seconds": 2 * shots}).encode()


def log_body(chunks: int = 3000) -> bytes:
    """The log of half an hour of live film, with a new prompt every tenth chunk."""
    lines = a_log().splitlines(keepends=True)
    made = next(json.loads(line) for line in lines if b'"event":"chunk"' in line)
    said = next(json.loads(line) for line in lines if b'"controls"' in line)
    told: list[dict[str, Any]] = []
    for chunk in range(chunks):
        if not chunk % 10:
            told.append(said | {"branch": 0, "chunk": chunk, "prompt": f"a red ball {chunk}"})
        frames = [9 + (chunk - 1) * 12 if chunk else 0, 9 + chunk * 12]
        told.append(made | {"branch": 0, "chunk": chunk, "frames": frames})
    return lines[0] + b"".join(json.dumps(line).encode() + b"\n" for line in told)


def _status(url: str, body: bytes, timeout: float) -> int | str:
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError as error:
        return type(error).__name__


def main(url: str, query: str, films: int, seconds: float) -> None:
    """Be there, and print what was answered as JSON."""
    crowd = Crowd(url, query, films, seconds)
    print("here", flush=True)  # from now on it is measured
    asyncio.run(crowd.stay())
    print(json.dumps(dict(sorted(crowd.counted.items()))))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
