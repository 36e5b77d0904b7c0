"""A flood: does the live server keep a quiet viewer's film going while a crowd asks for all it can, and then end?

The server is a process of its own with small budgets, the crowd (flood_crowd.py, beside this) another, and the quiet
viewer this one. When everybody has left, memory and disk have to be back within their budgets; at last it is asked to
end in the middle of saves.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psutil
import typer

from benchmarks.benchmark import Run, ServerBenchmark
from benchmarks.live.client import ROOT, Client, Server

if TYPE_CHECKING:
    from rich.table import Table

FRAMES, PAUSE_MS, END_SECONDS = 0.95, 50.0, 5.0
"""Least share of its frames that the quiet viewer gets; most that 99 of 100 waits for the event loop take; most that
the server takes to end."""
UNDO_MEMORY, LIVE_MEMORY, LIVE_DISK = 2**27, 2**26, 100_000_000
"""Budgets of the server, in bytes, small enough to be reached."""
GROWTH = 2**27
"""Bytes of memory that may stay beside the budgets: libraries that were not loaded before, and the heap's holes."""
# A recording that nobody watches goes on for two minutes.
_ALONE_SECONDS, _LEFT_SECONDS, _SETTLE_SECONDS = 8.0, 150.0, 10.0


def measure(
    *,
    seconds: float,
    words: Sequence[str] = (),
    report: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Start a server, flood it, leave it, end it.

    Args:
        seconds: how long the crowd stays.
        words: flags of the server.
        report: told what was found.

    Returns:
        "quiet" (share of its frames alone and in the flood), "loop" (ms that the event loop kept others waiting),
        "crowd" (what it was answered), "memory" and "disk" in bytes, "end"; "checks", "passed".
    """
    budgets = {"undo_memory": UNDO_MEMORY, "live_memory": LIVE_MEMORY, "live_disk": LIVE_DISK}
    words = [*words, *(word for name, size in budgets.items() for word in (f"--{name}", str(size)))]
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), words)
        try:
            found = asyncio.run(_flooded(server, Path(folder) / "live", seconds, report))
        finally:
            server.end()
    checks = dict(_checks(found))
    return {"benchmark": "flood", "seconds": seconds, **found, "checks": checks, "passed": all(checks.values())}


def _checks(found: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    yield f"the quiet viewer got {FRAMES:.0%} of its frames", found["quiet"]["share"] >= FRAMES
    yield f"99 of 100 waits for the event loop under {PAUSE_MS:.0f} ms", found["loop"]["p99_ms"] < PAUSE_MS
    memory, disk, end = found["memory"], found["disk"], found["end"]
    yield "memory back within its budgets", memory["after"] <= memory["budget"]
    yield "the disk within its budget all the time", disk["most"] <= disk["budget"]
    yield f"ended in {END_SECONDS:.0f} s in the middle of saves", end["seconds"] <= END_SECONDS
    yield "no half files", not end["halves"]


async def _flooded(server: Server, folder: Path, seconds: float, report: Callable[[str], object]) -> dict[str, Any]:
    async with server.visit() as quiet:
        _, hello = await quiet.wait(lambda: quiet.first("hello"))
        await quiet.wait(lambda: quiet.frames)
        fps = hello["fps"]
        alone = await _share(quiet, fps, _ALONE_SECONDS)
        before = server.resident()
        report(f"alone: {alone:.1%} of its frames")
        query = f"?session={hello['session']}&token={hello['view_token']}"
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "benchmarks.robust.flood_crowd",
            server.url,
            query,
            str(seconds),
        ]
        crowd = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        watching = asyncio.create_task(_watch(server, folder, seconds))
        share = await _share(quiet, fps, seconds)
        loop, most_memory, most_disk = await watching
        told, _ = await crowd.communicate()
        report(f"in the flood: {share:.1%} of its frames; the event loop: {loop}")
    after, left = await _left(server)
    disk = _disk(folder)
    report(f"everybody has left: {after / 2**20:.0f} MiB of memory, {disk / 10**6:.0f} MB of disk")
    return {
        "quiet": {"fps": fps, "alone": round(alone, 4), "share": round(share, 4)},
        "loop": loop,
        "crowd": json.loads(told or b"{}"),
        "memory": {
            "before": before,
            "most": most_memory,
            "after": after,
            "budget": before + UNDO_MEMORY + LIVE_MEMORY + GROWTH,
        },
        "disk": {"most": max(most_disk, disk), "after": disk, "budget": LIVE_DISK},
        "left": left,
        "end": await _end(server, folder),
    }


async def _share(client: Client, fps: float, seconds: float) -> float:
    """The share of its frames that a viewer gets."""
    had, begun = len(client.frames), time.time()
    await asyncio.sleep(seconds)
    return (len(client.frames) - had) / (fps * (time.time() - begun))


async def _watch(server: Server, folder: Path, seconds: float) -> tuple[dict[str, float], int, int]:
    """The worst of every second: waits for the event loop in milliseconds, bytes of memory and of disk."""
    loop = {"p99_ms": 0.0, "max_ms": 0.0, "unanswered": 0.0}
    memory = disk = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(1)
        memory, disk = max(memory, server.resident()), max(disk, await asyncio.to_thread(_disk, folder))
        try:
            figures = await asyncio.to_thread(server.metrics)
        except OSError:
            loop["unanswered"] += 1
            continue
        for name in ("p99", "max"):
            loop[f"{name}_ms"] = max(loop[f"{name}_ms"], round(1000 * figures[f"loop_pause_{name}_seconds"], 1))
    return loop, memory, disk


async def _left(server: Server) -> tuple[int, dict[str, float]]:
    """Memory when nothing is pending any more, and for how many seconds something was."""
    begun = time.monotonic()
    figures: dict[str, float] = {}
    while time.monotonic() - begun < _LEFT_SECONDS:
        await asyncio.sleep(0.5)
        with suppress(OSError):
            figures = await asyncio.to_thread(server.metrics)
            if figures["sessions"] == figures["saves_pending"] == 0:
                break
    took = time.monotonic() - begun
    await asyncio.sleep(_SETTLE_SECONDS)
    return server.resident(), {
        "seconds": round(took, 1),
        **{name: figures[name] for name in ("sessions", "saves_pending")},
    }


async def _end(server: Server, folder: Path) -> dict[str, Any]:
    """Ask for saves and a recording, then ask the server to end, and see what is left."""
    from app.live.quota import HALVES

    async with server.visit() as driver:
        await driver.wait(lambda: len(driver.frames) > 2)
        await driver.send(type="session.do", action="record")
        had = len(driver.frames)
        await driver.wait(lambda: len(driver.frames) > had + 48)
        for _ in range(10):
            await driver.send(type="session.do", action="save_last", seconds=60)
        await asyncio.sleep(0.2)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        try:
            code: int | None = await asyncio.to_thread(server.process.wait, 60)
        except psutil.TimeoutExpired:
            code = None
        took = time.monotonic() - begun
    films = [each for each in folder.iterdir() if each.is_dir()]
    halves = [half.name for film in films for pattern in (*HALVES, "*.part.mp4") for half in film.glob(pattern)]
    return {"seconds": round(took, 2), "code": code, "halves": halves}


def _disk(folder: Path) -> int:
    from app.live.quota import size_of

    return sum(size_of(film) for film in folder.iterdir() if film.is_dir() and film.name != "jobs")


def table(result: dict[str, Any]) -> Table:
    """Lay the numbers out for a person."""
    from rich.table import Table

    shown = Table("what", "measured", title=f"rivulet web in a flood of {result['seconds']:g} s")
    quiet, loop, memory, disk = (result[name] for name in ("quiet", "loop", "memory", "disk"))
    shown.add_row("frames of the quiet viewer, alone, in the flood", f"{quiet['alone']:.1%}, {quiet['share']:.1%}")
    shown.add_row("waits for the event loop, 99 of 100, longest", f"{loop['p99_ms']:g} ms, {loop['max_ms']:g} ms")
    sizes = ", ".join(f"{memory[name] / 2**20:.0f}" for name in ("before", "most", "after", "budget"))
    shown.add_row("memory before, at most, after, budget", f"{sizes} MiB")
    sizes = ", ".join(f"{disk[name] / 10**6:.0f}" for name in ("most", "after", "budget"))
    shown.add_row("disk at most, after, budget", f"{sizes} MB")
    shown.add_row("SIGTERM to the end", f"{result['end']['seconds']:g} s, code {result['end']['code']}")
    for name, count in result["crowd"].items():
        shown.add_row(f"  crowd: {name}", str(count))
    for check, passed in result["checks"].items():
        shown.add_row(check, "yes" if passed else "NO")
    return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood(ServerBenchmark):
    """Whether a viewer's film goes on while a crowd asks the live server for all it can; then its end."""

    seconds: Annotated[float, typer.Option("--seconds", min=1, max=86400, help="How long the crowd stays.")] = 60.0
    table = staticmethod(table)

    def measure(self, run: Run) -> dict[str, Any]:
        """See `measure` above."""
        return measure(seconds=self.seconds, words=self.words, report=run.report)
