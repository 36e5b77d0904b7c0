"""The live server as a viewer meets it: a process of its own, the model that ships, the socket, and a browser.

How long until there is a picture, how long until a new prompt is on it and where that time goes, whether watchers cost
encodes, what a slow link sees after minutes, and whether the server stays as it was and stops when nobody watches.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.benchmark import Run, ServerBenchmark, chosen_parts, parts_flag
from benchmarks.live import browser
from benchmarks.live.client import Client, Link, Server
from benchmarks.live.table import table

if TYPE_CHECKING:
    from app.live.frame_header import FrameHeader

PROMPTS = (
    "a blue star over the snow",
    "a green square over the meadow",
    "a yellow heart at night",
    "a red ball at sea",
)
SAMPLES, WATCHERS = 10, 20
PAINT_MS = 150.0
"""What a prompt may take beside its chunk."""
LEAVING_SECONDS, AGE_GROWTH, MEMORY_GROWTH, PROMPT_GROWTH = 5.0, 0.15, 0.05, 0.25
"""Bounds of `passed`: of the time until generation stops and of how much older frames grow, in seconds, and of the
growth of resident memory and of a prompt's time."""
UNDO_BYTES = 2**28
"""Of the server's memory for rewinding: full before growth is judged, where the usual GiB takes longer to fill."""
PARTS = ("browser", "prompts", "viewers", "minutes", "slow", "leaving")
"""What can be measured: the page in a browser; prompts' times; 1 and 20 viewers; the server over minutes; slow links
over as many; its end."""


SLOW = (Link("40 ms each way, 4 Mbit/s", 0.04, 4e6), Link("200 ms each way, 0.3 Mbit/s", 0.2, 0.3e6))


def measure(
    *,
    minutes: float,
    words: Sequence[str] = (),
    parts: Sequence[str] = PARTS,
    seed: int = 0,
    report: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Start a server and watch it.

    Args:
        minutes: how long the slow links and the server's memory are watched.
        words: flags of the server.
        parts: those of PARTS that are measured.
        seed: of the moments at which prompts are sent.
        report: told what was found.

    Returns:
        "start", "browser", "prompts", "viewers", "links", "memory", "leaving": the figures of each part; "checks",
        "passed".
    """
    words = [*words, "--undo_memory", str(UNDO_BYTES)]
    page: dict[str, Any] | None = None
    with tempfile.TemporaryDirectory() as folder:
        if "browser" in parts:
            browser.require()
            page = browser.measure(Path(folder) / "page", words)
            report(f"browser: {page}")
        server = Server(Path(folder), words)
        try:
            result = asyncio.run(_watch(server, minutes, parts, random.Random(seed), report))
        finally:
            server.end()
    if page is not None:
        result["browser"] = page
        result["checks"] |= _browser_checks(page, result["session"]["fps"])
    result["passed"] = all(result["checks"].values())
    return {"benchmark": "live", "minutes": minutes, **result}


async def _watch(
    server: Server,
    minutes: float,
    parts: Sequence[str],
    moments: random.Random,
    report: Callable[[str], object],
) -> dict[str, Any]:
    async with server.visit() as driver:
        found: dict[str, Any] = {"start": await _start(server, driver)}
        hello = _hello(driver)
        fps, chunk_frames = hello["fps"], hello["chunk_frames"]
        found["session"] = {name: hello[name] for name in ("fps", "width", "height", "chunk_frames", "model")}
        report(f"start: {found['start']}")
        if "prompts" in parts:
            found["prompts"] = await _prompts(driver, moments)
            report(f"prompts: {found['prompts']}")
        if "viewers" in parts:
            found["viewers"] = await _viewers(server, driver)
            report(f"viewers: {found['viewers']}")
        if "minutes" in parts or "slow" in parts:
            links, memory = await _minutes(server, driver, minutes, SLOW if "slow" in parts else (), chunk_frames, fps)
            found |= {"links": links, "memory": memory}
            report(f"memory: {memory['growth']:+.2%}")
        found["chunk_s"] = (await asyncio.to_thread(server.metrics))["chunk_seconds"]
    if "leaving" in parts:
        found["leaving"] = await _leaving(server)
    found["checks"] = dict(_checks(found, 1000 * chunk_frames / fps))
    return found


def _browser_checks(page: dict[str, Any], fps: float) -> dict[str, bool]:
    return {
        "a page just opened shows a picture in 5 s": page["first_drawn_cold_s"] < browser.COLD,
        "a further page shows one within a second": page["first_drawn_warm_s"] < browser.WARM,
        "the film plays at its rate in a browser": page["drawn_fps"] >= browser.RATE * fps,
    }


def _checks(found: dict[str, Any], chunk_ms: float) -> Iterator[tuple[str, bool]]:
    if "prompts" in found:
        seen = found["prompts"]["seen_ms"]["median"]
        yield "a prompt is seen within a chunk and 150 ms", seen <= chunk_ms + PAINT_MS
    if "viewers" in found:
        viewers = found["viewers"]
        yield "the film plays at its rate", viewers["alone_fps"] >= 0.95 * found["session"]["fps"]
        yield "watchers are encoded for once", viewers["encodes_a_frame"] <= 1.05
    if "memory" in found:
        memory = found["memory"]
        first, last = memory["prompt_ms_first_tenth"], memory["prompt_ms_last_tenth"]
        yield (
            "frames do not grow old, on slow links either",
            all(link["growth_s"] <= AGE_GROWTH for link in found["links"]),
        )
        yield "the server stays as large as it was", memory["growth"] <= MEMORY_GROWTH
        if first is not None and last is not None:
            yield "prompts are seen as soon as at the beginning", last <= first * (1 + PROMPT_GROWTH) + PAINT_MS
    if "leaving" in found:
        stopped = found["leaving"]["stopped_after_s"]
        yield "generation stops when nobody watches", stopped <= LEAVING_SECONDS


async def _start(server: Server, client: Client) -> dict[str, Any]:
    """Seconds from the start of the process, and of a further film while the first plays."""
    cold_hello = await client.wait(lambda: client.first("hello"))
    await client.wait(lambda: client.frames)
    warm: list[tuple[float, float]] = []
    for _ in range(3):
        begun = time.time()
        async with server.visit() as other:
            hello = await other.wait(lambda: other.first("hello"))  # awaited before the next turn
            await other.wait(lambda: other.frames)
            warm.append((hello[0] - begun, other.frames[0][0] - begun))
            await other.send(type="session.stop")
    return {
        "ready_s": round(server.ready - server.begun, 2),
        "cold_hello_s": round(cold_hello[0] - server.begun, 2),
        "cold_first_frame_s": round(client.frames[0][0] - server.begun, 2),
        "warm_hello_s": round(median(hello for hello, _ in warm), 3),
        "warm_first_frame_s": round(median(frame for _, frame in warm), 3),
    }


async def _prompts(client: Client, moments: random.Random) -> dict[str, Any]:
    """Milliseconds from sending a prompt to its receipts and to its first frame, at random moments of a chunk."""
    times: dict[str, list[float]] = {"accepted": [], "applied": [], "seen": []}
    spent: dict[str, list[float]] = {}
    for number in range(SAMPLES):
        await asyncio.sleep(2 + moments.random())
        name, sent = f"bench-{number}", time.time()
        prompt = PROMPTS[number % len(PROMPTS)]
        await client.send(type="session.prompt_update", id=name, prompt=prompt, transition={"kind": "recache"})
        kind = "session.prompt_update"
        accepted, _ = await client.wait(lambda: client.first(f"{kind}.accepted", id=name))  # noqa: B023  # likewise
        applied, told = await client.wait(lambda: client.first(f"{kind}.applied", id=name))  # noqa: B023
        first = told["frame"]
        seen = await client.wait(lambda: _reached(client, first))  # noqa: B023
        for key, at in (("accepted", accepted), ("applied", applied), ("seen", seen)):
            times[key].append(1000 * (at - sent))
        for part, ms in {**told["parts"], "socket": times["seen"][-1] - told["ms"]}.items():
            spent.setdefault(part, []).append(ms)
    return {
        **{f"{key}_ms": _spread(values) for key, values in times.items()},
        "parts_ms": {part: _spread(values, digits=1) for part, values in spent.items()},
    }


async def _viewers(server: Server, driver: Client, seconds: float = 10.0) -> dict[str, Any]:
    """Frames and encodes with one viewer, then with twenty."""
    alone, encoded_alone, _ = await _count(server, [driver], seconds)
    hello = _hello(driver)
    query = f"?session={hello['session']}&token={hello['view_token']}"
    tasks: list[asyncio.Task[None]] = []
    watchers: list[Client] = []
    leave = asyncio.Event()

    async def watch() -> None:
        async with server.visit(query=query) as client:
            watchers.append(client)
            await leave.wait()

    tasks = [asyncio.create_task(watch()) for _ in range(WATCHERS - 1)]
    while len(watchers) < WATCHERS - 1 or not all(client.frames for client in watchers):
        await asyncio.sleep(0.1)
        for task in tasks:
            if task.done():
                task.result()
    together, encoded, made = await _count(server, [driver, *watchers], seconds)
    leave.set()
    await asyncio.gather(*tasks)
    return {
        "alone_fps": round(alone[0], 2),
        "alone_encodes_a_second": round(encoded_alone, 2),
        "viewers": WATCHERS,
        "slowest_viewer_fps": round(min(together), 2),
        "encodes_a_second": round(encoded, 2),
        "encodes_a_frame": round(encoded / max(made, 1e-9), 3),
    }


async def _count(server: Server, clients: list[Client], seconds: float) -> tuple[list[float], float, float]:
    """Frames a second of each client, encodes a second, and frames of the film a second."""
    before, had, begun = (
        await asyncio.to_thread(server.metrics),
        [len(client.frames) for client in clients],
        time.time(),
    )
    film = clients[0].frames[-1][1].frame
    await asyncio.sleep(seconds)
    after, lasted = await asyncio.to_thread(server.metrics), time.time() - begun
    rates = [(len(client.frames) - count) / lasted for client, count in zip(clients, had, strict=True)]
    encoded = after["frames_encoded"] - before["frames_encoded"]
    return rates, encoded / lasted, (clients[0].frames[-1][1].frame - film) / lasted


async def _minutes(
    server: Server, driver: Client, minutes: float, slow: Sequence[Link], chunk_frames: int, fps: float
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Watch over slow links and weigh the server, all at once, while the prompt changes every 10 seconds."""
    hello = _hello(driver)
    query = f"?session={hello['session']}&token={hello['view_token']}"
    curve: list[tuple[float, int]] = []
    async with AsyncExitStack() as visits:
        others = [await visits.enter_async_context(server.visit(link, query)) for link in slow]
        begun, number, had = time.time(), 0, len(driver.told)
        watched = [(driver, len(driver.frames)), *((other, 0) for other in others)]
        while (now := time.time() - begun) < 60 * minutes:
            curve.append((round(now, 1), server.resident()))
            if int(now / 10) > number:
                number = int(now / 10)
                prompt, kind = PROMPTS[number % len(PROMPTS)], {"kind": "recache"}
                await driver.send(type="session.prompt_update", id=f"m{number}", prompt=prompt, transition=kind)
            await asyncio.sleep(1)
    links = [_ages(client, client.frames[since:], chunk_frames, fps) for client, since in watched]
    seen = [(at - begun, told["ms"]) for at, told in driver.told[had:] if told["type"].endswith(".applied")]
    return links, _weighed(curve, seen, 60 * minutes)


def _weighed(curve: list[tuple[float, int]], seen: list[tuple[float, float]], lasted: float) -> dict[str, Any]:
    """Memory and prompts' times at the beginning and at the end.

    The first third fills what is kept of the last minute, so growth is judged from the second one on.
    """

    def of(values: Sequence[tuple[float, float]], begin: float, end: float) -> float | None:
        found = [value for at, value in values if begin <= at / lasted < end]
        return median(found) if found else None

    early, late = of(curve, 1 / 3, 2 / 3) or curve[0][1], of(curve, 2 / 3, 2) or curve[-1][1]
    return {
        "resident_bytes_first_tenth": of(curve, 0, 0.1),
        "resident_bytes_last_tenth": of(curve, 0.9, 2),
        "resident_bytes_middle_third": round(early),
        "resident_bytes_last_third": round(late),
        "growth": late / early - 1,
        "prompt_ms_first_tenth": of(seen, 0, 0.1),
        "prompt_ms_last_tenth": of(seen, 0.9, 2),
        "prompt_ms": _spread([ms for _, ms in seen]) if seen else None,
        "curve": curve[:: max(1, len(curve) // 60)],
    }


def _ages(client: Client, frames: list[tuple[float, FrameHeader]], chunk_frames: int, fps: float) -> dict[str, Any]:
    """How old frames are when they arrive, beyond their place in their chunk, which is played and not sent at once."""
    ages = [at - header.made - (header.frame + 3) % chunk_frames / fps for at, header in frames]
    third = max(1, len(ages) // 3)
    early, late = median(ages[:third]), median(ages[-third:])
    lasted = max(frames[-1][0] - frames[0][0], 1e-9) if frames else 1e-9
    return {
        "link": client.link.name,
        "fps": round(len(frames) / lasted, 2),
        "age_s": {**_spread(ages, digits=3)},
        "early_s": round(early, 3),
        "late_s": round(late, 3),
        "growth_s": round(late - early, 3),
    }


async def _leaving(server: Server) -> dict[str, Any]:
    """Seconds from the last viewer's leaving to the last chunk that is made."""
    left = time.time()
    chunks, last = (await asyncio.to_thread(server.metrics))["chunks"], left
    while time.time() - left < 2 * LEAVING_SECONDS:
        await asyncio.sleep(0.1)
        now = (await asyncio.to_thread(server.metrics))["chunks"]
        if now != chunks:
            chunks, last = now, time.time()
    return {"stopped_after_s": round(last - left, 2)}


def _hello(client: Client) -> dict[str, Any]:
    found = client.first("hello")
    assert found is not None
    return found[1]


def _reached(client: Client, frame: int) -> float | None:
    """When the first frame from `frame` on came."""
    return next((at for at, header in client.frames if header.frame >= frame), None)


def _spread(values: list[float], digits: int = 0) -> dict[str, float]:
    p95 = quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]
    return {
        name: round(value, digits) for name, value in (("median", median(values)), ("p95", p95), ("max", max(values)))
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Live(ServerBenchmark):
    """The live server as a viewer meets it: first picture, prompts, viewers, slow links, memory, its end."""

    minutes: Annotated[
        float, typer.Option("--minutes", min=0.2, max=1440, help="How long slow links and memory are watched.")
    ] = 5.0
    only: Annotated[str | None, parts_flag(PARTS)] = None
    table = staticmethod(table)

    @property
    def partial(self) -> bool:
        """Some parts are not the table."""
        return self.only is not None

    def measure(self, run: Run) -> dict[str, Any]:
        """See `measure` above."""
        parts, words = chosen_parts(self.only, PARTS), self.words
        found = measure(minutes=self.minutes, words=words, parts=parts, report=run.report)
        return {"preset": self.preset, **found}
