"""The live server as a viewer meets it: a process of its own, the model that ships, and the socket; no browser.

How long until there is a picture, how long until a new prompt is on it, whether watchers cost encodes, what a slow link
sees after minutes, and whether the server stays as large as it was and stops when nobody watches.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import rich.table

from app.wire import FrameHeader
from benchmarks.live_client import Client, Link, Server

PROMPTS = (
    "a blue star over the snow",
    "a green square over the meadow",
    "a yellow heart at night",
    "a red ball at sea",
)
SAMPLES, WATCHERS = 10, 20
PAINT_MS = 150.0
"""What a prompt may take beside its chunk."""
LEAVING_SECONDS, AGE_GROWTH, MEMORY_GROWTH = 5.0, 0.15, 0.05
"""Bounds of `passed`: of the time until generation stops, of a frame's age in seconds, and of resident memory."""


SLOW = (Link("40 ms each way, 4 Mbit/s", 0.04, 4e6), Link("200 ms each way, 0.3 Mbit/s", 0.2, 0.3e6))


def measure(
    *,
    minutes: float = 5.0,
    preset: str = "embedded",
    model: str | None = None,
    threads: int | None = None,
    seed: int = 0,
    report: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Start a server and watch it.

    Args:
        minutes: how long the slow links and the server's memory are watched.
        preset: streaming system.
        model: None takes the preset's.
        threads: of torch in the server; None = all cores.
        seed: of the moments at which prompts are sent.
        report: told what was found.

    Returns:
        "start", "prompts", "viewers", "links", "memory", "leaving": the figures of each part; "passed".
    """
    words = ["--preset", preset, *(["--model", model] if model else [])]
    words += [] if threads is None else ["--threads", str(threads)]
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), words)
        try:
            result = asyncio.run(_watch(server, minutes, random.Random(seed), report))
        finally:
            server.end()
    result["passed"] = all(result["checks"].values())
    return {"benchmark": "live", "preset": preset, "minutes": minutes, **result}


async def _watch(
    server: Server, minutes: float, moments: random.Random, report: Callable[[str], object]
) -> dict[str, Any]:
    async with server.visit() as driver:
        found: dict[str, Any] = {"start": await _start(server, driver)}
        hello = _hello(driver)
        fps, chunk_frames = hello["fps"], hello["chunk_frames"]
        found["session"] = {name: hello[name] for name in ("fps", "width", "height", "chunk_frames", "model")}
        report(f"start: {found['start']}")
        found["prompts"] = await _prompts(driver, moments)
        report(f"prompts: {found['prompts']}")
        found["viewers"] = await _viewers(server, driver)
        report(f"viewers: {found['viewers']}")
        links, memory = await _minutes(server, driver, minutes, chunk_frames, fps)
        found |= {"links": links, "memory": memory}
        report(f"memory: {memory['growth']:+.2%}")
    found["leaving"] = await _leaving(server)
    chunk_ms = 1000 * chunk_frames / fps
    viewers, prompts = found["viewers"], found["prompts"]
    found["checks"] = {
        "a prompt is seen within a chunk and 150 ms": prompts["seen_ms"]["median"] <= chunk_ms + PAINT_MS,
        "the film plays at its rate": viewers["alone_fps"] >= 0.95 * fps,
        "watchers are encoded for once": viewers["encodes_a_frame"] <= 1.05,
        "frames on a slow link do not grow old": all(link["growth_s"] <= AGE_GROWTH for link in links),
        "the server stays as large as it was": memory["growth"] <= MEMORY_GROWTH,
        "generation stops when nobody watches": found["leaving"]["stopped_after_s"] <= LEAVING_SECONDS,
    }
    return found


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
    return {f"{key}_ms": _spread(values) for key, values in times.items()}


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
    server: Server, driver: Client, minutes: float, chunk_frames: int, fps: float
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Watch over slow links and weigh the server, all at once, while the prompt changes every 10 seconds."""
    hello = _hello(driver)
    query = f"?session={hello['session']}&token={hello['view_token']}"
    curve: list[tuple[float, int]] = []
    async with server.visit(SLOW[0], query) as first, server.visit(SLOW[1], query) as second:
        begun, number = time.time(), 0
        watched = [(driver, len(driver.frames)), (first, 0), (second, 0)]
        while (now := time.time() - begun) < 60 * minutes:
            curve.append((round(now, 1), server.resident()))
            if int(now / 10) > number:
                number = int(now / 10)
                prompt, kind = PROMPTS[number % len(PROMPTS)], {"kind": "recache"}
                await driver.send(type="session.prompt_update", id=f"m{number}", prompt=prompt, transition=kind)
            await asyncio.sleep(1)
    links = [_ages(client, client.frames[since:], chunk_frames, fps) for client, since in watched]
    sizes = [size for _, size in curve]
    third = max(1, len(sizes) // 3)
    early, late = median(sizes[third : 2 * third]), median(sizes[-third:])  # the first third fills buffers
    return links, {
        "resident_bytes_middle_third": round(early),
        "resident_bytes_last_third": round(late),
        "growth": late / early - 1,
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


def table(result: dict[str, Any]) -> rich.table.Table:
    """Lay the numbers out for a person."""
    shown = rich.table.Table(
        "what", "measured", title=f"rivulet web, {result['preset']}, {result['minutes']:g} minutes"
    )
    start, prompts, viewers = result["start"], result["prompts"], result["viewers"]
    shown.add_row(
        "start of the process to hello, first frame", f"{start['cold_hello_s']} s, {start['cold_first_frame_s']} s"
    )
    shown.add_row(
        "a further film, to hello, first frame", f"{start['warm_hello_s']} s, {start['warm_first_frame_s']} s"
    )
    for key, name in (("accepted", "accepted"), ("applied", "applied"), ("seen", "its first frame here")):
        spread = prompts[f"{key}_ms"]
        shown.add_row(f"prompt to {name}", f"median {spread['median']:g} ms, at most {spread['max']:g} ms")
    shown.add_row("frames a second, one viewer", f"{viewers['alone_fps']} of {result['session']['fps']:g}")
    shown.add_row(
        f"{viewers['viewers']} viewers: slowest, encodes a frame",
        f"{viewers['slowest_viewer_fps']} fps, {viewers['encodes_a_frame']}",
    )
    for link in result["links"]:
        age = link["age_s"]
        shown.add_row(
            link["link"],
            f"{link['fps']} fps; age median {age['median']} s, p95 {age['p95']} s; from the first third to the last "
            f"{link['growth_s']:+} s",
        )
    memory = result["memory"]
    size = memory["resident_bytes_last_third"] / 2**20
    shown.add_row("memory; from the middle third to the last", f"{size:.0f} MiB; {memory['growth']:+.2%}")
    shown.add_row("everybody gone, until the last chunk", f"{result['leaving']['stopped_after_s']} s")
    for check, passed in result["checks"].items():
        shown.add_row(check, "yes" if passed else "NO")
    return shown
