"""Visits to a live server: sessions that come, wait, are watched by several and leave, each with its account."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from benchmarks.live.client import Client, Server
from benchmarks.live.playback import Playback, play

PROMPT_SECONDS = 10.0
"""Between two prompts of a driver."""
_PROMPTS = (
    "a blue star over the snow",
    "a green square over the meadow",
    "a yellow heart at night",
    "a red ball at sea",
)
_PER_ADDRESS = 60
_OVERTAKEN = 1.0
"""Seconds by which who came later may be let in earlier: two who ask at once arrive in either order."""


@dataclass(slots=True)
class Visit:
    """One session that was asked for.

    Attributes:
        asked: seconds after the beginning; `admitted` and `seen`: when hello and its first picture came; `left`.
        places: those that it was told while it waited; 1 is next.
        outcome: playing, waiting, refused, lost.
        said: the sentence that refused it.
        film: what its driver saw, `watchers` what the others did.
        rate: how many times real time the server says that it can make the film.
    """

    number: int
    asked: float
    admitted: float | None = None
    seen: float | None = None
    left: float | None = None
    places: list[int] = field(default_factory=list[int])
    outcome: str = "waiting"
    said: str = ""
    film: Playback | None = None
    watchers: list[Playback] = field(default_factory=list[Playback])
    rate: float | None = None

    @property
    def viewers(self) -> list[Playback]:
        """The driver's film and the watchers'."""
        return [*([] if self.film is None else [self.film]), *self.watchers]


@dataclass(frozen=True, slots=True)
class Load:
    """How much comes: `sessions`, over `arrive` seconds, each with `viewers`, for `stay` seconds (0: to the end)."""

    sessions: int
    viewers: int
    minutes: float
    arrive: float
    stay: float


class Crowd:
    """Everybody who comes to a server.

    Args:
        server: where they come.
        load: how many, and for how long.
    """

    def __init__(self, server: Server, load: Load) -> None:
        self.server, self.load = server, load
        self.begun = time.time()
        self.end = self.begun + 60 * load.minutes
        self.visits: list[Visit] = []
        self._seats = itertools.count()

    @property
    def playing(self) -> int:
        """Films that are being watched."""
        return sum(visit.admitted is not None and visit.left is None for visit in self.visits)

    @property
    def waiting(self) -> int:
        """Sessions that wait to be let in."""
        return sum(visit.outcome == "waiting" for visit in self.visits)

    async def come(self) -> None:
        """Until the time is over."""
        await asyncio.gather(*(self._session(number) for number in range(self.load.sessions)))

    async def _session(self, number: int) -> None:
        await asyncio.sleep(number * self.load.arrive / max(1, self.load.sessions - 1))
        visit = Visit(number, self._now())
        self.visits.append(visit)
        try:
            async with self.server.visit(source=self._source()) as driver:
                with suppress(TimeoutError):
                    await driver.wait(lambda: driver.first("hello") or driver.first("session.done"), self._left())
                visit.places = [told["position"] for _, told in driver.told if told.get("code") == "busy"]
                if (hello := driver.first("hello")) is not None:
                    visit.outcome, visit.admitted = "playing", hello[0] - self.begun
                    await self._watch(visit, driver, hello[1])
                elif driver.first("session.done") is not None:
                    visit.outcome = "refused"
                    visit.said = next((told["message"] for _, told in driver.told if told["type"] == "error"), "")
        except Exception as error:  # the harness tells what became of a visit, whatever it was
            visit.outcome, visit.said = "lost", f"{type(error).__name__}: {error}"
        visit.left = self._now()

    async def _watch(self, visit: Visit, driver: Client, hello: dict[str, Any]) -> None:
        """Drive, while others watch, until the stay is over."""
        query = f"?session={hello['session']}&token={hello['view_token']}"
        leave = asyncio.Event()
        others = [asyncio.create_task(self._watcher(query, leave)) for _ in range(self.load.viewers - 1)]
        over = min(self.end, time.time() + self.load.stay) if self.load.stay else self.end
        number = 0
        while (left := over - time.time()) > 0:
            with suppress(TimeoutError):
                await driver.wait(lambda: driver.first("session.done"), min(left, PROMPT_SECONDS))
                visit.outcome = "lost"
                visit.said = next((told["message"] for _, told in driver.told if told["type"] == "error"), "ended")
                break
            if over - time.time() > 1:
                number += 1
                prompt = _PROMPTS[(visit.number + number) % len(_PROMPTS)]
                await driver.send(
                    type="session.prompt_update", id=f"s{number}", prompt=prompt, transition={"kind": "recache"}
                )
        frames = list(driver.frames)
        if self.load.stay and visit.outcome == "playing":
            await driver.send(type="session.stop")
            with suppress(TimeoutError):
                await driver.wait(lambda: driver.first("session.done"), 5.0)
        leave.set()
        chunk_frames = hello["chunk_frames"]
        watched = await asyncio.gather(*others, return_exceptions=True)
        visit.watchers = [play(seen, chunk_frames) for seen in watched if isinstance(seen, list) and seen]
        if frames:
            visit.seen = frames[0][0] - self.begun
            visit.film = play(frames, chunk_frames)
        rates = [told["rate"] for _, told in driver.told if told["type"] == "metrics" and told["rate"] is not None]
        visit.rate = sorted(rates)[len(rates) // 2] if rates else None

    async def _watcher(self, query: str, leave: asyncio.Event) -> Any:
        async with self.server.visit(query=query, source=self._source()) as client:
            await leave.wait()
            return list(client.frames)

    def _source(self) -> str:
        """An address of this machine for who comes next: the server bounds what comes from one."""
        seat = next(self._seats)
        return f"127.0.7.{1 + seat // _PER_ADDRESS}"

    def _now(self) -> float:
        return time.time() - self.begun

    def _left(self) -> float:
        return max(0.1, self.end - time.time())


def overtaken(visits: Sequence[Visit], tolerance: float = _OVERTAKEN) -> int:
    """How many of those who waited saw somebody let in who had asked later."""
    queued = sorted((v for v in visits if v.places), key=lambda visit: visit.asked)
    return sum(
        any(
            later.asked - first.asked > tolerance
            and later.admitted is not None
            and (first.admitted is None or later.admitted < first.admitted)
            for later in queued
        )
        for first in queued
    )
