"""A flood: does the live server keep a quiet viewer's film going while others ask for all they can, and then end?

The server is a process of its own with small budgets, those who flood it (flood_sockets.py, flood_visits.py and
flood_crowd.py, beside this) are others, one after another, and the quiet viewer is this one. When everybody has left,
memory and disk have to be back within their budgets; at last it is asked to end in the middle of saves.
"""

from __future__ import annotations

import asyncio
import http.client
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
from urllib.parse import urlsplit

import psutil
import typer

from app.errors import UsageMistake
from app.loading.live import films_at_once
from benchmarks.benchmark import Run, ServerBenchmark, chosen_parts, parts_flag
from benchmarks.live.client import ROOT, Client, Server
from benchmarks.robust.flood_sockets import allow_files, many_addresses

if TYPE_CHECKING:
    from rich.table import Table

FRAMES, PAUSE_MS, END_SECONDS, LINES, PAGE_SECONDS = 0.95, 50.0, 5.0, 100.0, 2.0
"""Least share of its frames that the quiet viewer gets; most that 99 of 100 waits for the event loop take; most that
the server takes to end; lines a minute that its log stays below; most that a fresh visitor waits for an answer."""
UNDO_MEMORY, LIVE_MEMORY, LIVE_DISK = 2**27, 2**26, 100_000_000
"""Budgets of the server, in bytes, small enough to be reached."""
GROWTH = 2**27
"""Bytes of memory that may stay beside the budgets: libraries that were not loaded before, and the heap's holes."""
PARTS = ("sockets", "sessions", "crowd")
"""Half-open sockets, while a fresh visitor comes every second; films that are opened and left one after another; a
crowd of drivers, watchers and requests. It comes last: recordings that it leaves go on for two minutes."""
_ALONE_SECONDS, _LEFT_SECONDS, _SETTLE_SECONDS = 8.0, 150.0, 10.0
_WINDOW_SECONDS = 60.0
"""Of which the server tells the waits for its event loop: what was before a part is not to be laid at its door."""
_FRESH = "127.0.9.9"
"""Where fresh visitors come from."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of a flood.

    Attributes:
        seconds: of the crowd, and of the half-open sockets.
        sessions: films at a time, the quiet viewer's among them.
        visits: films opened and left one after another.
        half_open: sockets.
    """

    seconds: float = 60.0
    sessions: int = 2
    visits: int = 300
    half_open: int = 1100


def measure(
    sizes: Sizes,
    *,
    parts: Sequence[str] = PARTS,
    words: Sequence[str] = (),
    report: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Start a server, flood it, leave it, end it.

    Args:
        sizes: how much.
        parts: those of PARTS.
        words: flags of the server.
        report: told what was found.

    Returns:
        "alone", the share of its frames that the quiet viewer gets before; "parts", for each its "seconds", the same
        "share", "loop" (ms that the event loop kept others waiting), "memory" and "disk" at most in bytes, "lines" of
        the log a minute, "told" (what was answered), and of the sockets "fresh"; "memory", "disk" and "left" when
        everybody had gone, "end"; "checks", "passed".
    """
    if "sockets" in parts and not (many_addresses() and allow_files(sizes.half_open)):
        raise UsageMistake(
            f"{sizes.half_open} sockets need Linux's loopback network and as many open files (ulimit -n). "
            "Measure the others: --only sessions,crowd"
        )
    flags = {
        "max_sessions": sizes.sessions,
        "undo_memory": UNDO_MEMORY,
        "live_memory": LIVE_MEMORY,
        "live_disk": LIVE_DISK,
    }
    words = [*words, *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), words)
        try:
            found = asyncio.run(_flooded(server, Path(folder) / "live", sizes, parts, report))
        finally:
            server.end()
    checks = dict(_checks(found))
    asked = {"seconds": sizes.seconds, "sessions": sizes.sessions}
    return {"benchmark": "flood", **asked, **found, "checks": checks, "passed": all(checks.values())}


def _checks(found: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    memory, disk, end = found["memory"], found["disk"], found["end"]
    for name, part in found["parts"].items():
        loop, told = part["loop"], part["told"]
        yield f"{name}: the quiet viewer got {FRAMES:.0%} of its frames", part["share"] >= FRAMES
        heard = loop["answered"] > 9 * loop["unanswered"]  # silence is no good sign
        yield f"{name}: 99 of 100 waits for the event loop under {PAUSE_MS:.0f} ms", heard and loop["p99_ms"] < PAUSE_MS
        yield f"{name}: the disk within its budget", part["disk"] <= disk["budget"]
        yield f"{name}: fewer than {LINES:.0f} lines a minute in the log", part["lines"] < LINES
        if name == "sessions":
            yield f"{name}: every film began", told["opened"] == told["asked"]
        if fresh := part.get("fresh"):
            soon = max(fresh["healthz_max_s"], fresh["page_max_s"]) <= PAGE_SECONDS
            yield f"{name}: fresh visitors were answered in {PAGE_SECONDS:g} s", soon and not fresh["unanswered"]
    yield "memory back within its budgets", memory["after"] <= memory["budget"]
    yield "the disk within its budget afterwards", disk["after"] <= disk["budget"]
    yield f"ended in {END_SECONDS:.0f} s in the middle of saves", end["seconds"] <= END_SECONDS
    yield "no half files", not end["halves"]


async def _flooded(
    server: Server, folder: Path, sizes: Sizes, parts: Sequence[str], report: Callable[[str], object]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with server.visit() as quiet:
        _, hello = await quiet.wait(lambda: quiet.first("hello"))
        await quiet.wait(lambda: quiet.frames)
        fps = hello["fps"]
        had, begun = len(quiet.frames), time.monotonic()
        await asyncio.sleep(_ALONE_SECONDS)
        alone = _share(quiet, fps, had, begun)
        before = server.resident()
        report(f"alone: {alone:.1%} of its frames")
        query = f"?session={hello['session']}&token={hello['view_token']}"
        for part in parts:
            await asyncio.sleep(_WINDOW_SECONDS)
            found[part] = await _beside(server, quiet, fps, folder, part, _program(part, server, query, sizes))
            report(f"{part}: {found[part]}")
    after, left = await _left(server)
    disk = await asyncio.to_thread(_disk, folder)
    report(f"everybody has left: {after / 2**20:.0f} MiB of memory, {disk / 10**6:.0f} MB of disk")
    budget = before + UNDO_MEMORY + LIVE_MEMORY + GROWTH
    return {
        "fps": fps,
        "alone": alone,
        "parts": found,
        "memory": {"before": before, "after": after, "budget": budget},
        "disk": {"after": disk, "budget": LIVE_DISK},
        "left": left,
        "end": await _end(server, folder),
    }


def _program(part: str, server: Server, query: str, sizes: Sizes) -> list[str]:
    """Module and arguments of those who flood."""
    if part == "sockets":
        return ["flood_sockets", server.url, str(sizes.half_open), str(sizes.seconds)]
    if part == "sessions":
        return ["flood_visits", server.url, str(sizes.visits)]
    return ["flood_crowd", server.url, query, str(sizes.sessions - 1), str(sizes.seconds)]


async def _beside(
    server: Server, quiet: Client, fps: float, folder: Path, part: str, program: Sequence[str]
) -> dict[str, Any]:
    """Let a program flood the server until it ends, and look every second how the server and its viewers fare."""
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.robust.{program[0]}", *program[1:]]
    others = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert others.stdout is not None
    await others.stdout.readline()  # it is there: what it takes to begin is nothing that came to the server
    had, begun, lines = len(quiet.frames), time.monotonic(), server.log_lines()
    answer = asyncio.create_task(others.communicate())
    loop, fresh = _Loop(server), _Fresh(server.url)
    memory = disk = 0
    seconds_of: list[list[float]] = []
    worked = _processor_seconds(server.process)
    while not answer.done():
        await asyncio.wait([answer], timeout=1.0)
        seconds_of.append([round(time.monotonic() - begun, 2), len(quiet.frames) - had])
        memory, disk = max(memory, server.resident()), max(disk, await asyncio.to_thread(_disk, folder))
        await asyncio.to_thread(loop.look)
        if part == "sockets":
            await asyncio.to_thread(fresh.come)
    seconds = time.monotonic() - begun
    told, _ = answer.result()
    if others.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {others.returncode}; run it by itself to see why")
    found: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "share": _share(quiet, fps, had, begun),
        "frames": seconds_of,
        "loop": loop.worst,
        "processor": {name: round(took - worked[name], 1) for name, took in _processor_seconds(server.process).items()},
        "memory": memory,
        "disk": disk,
        "lines": round((server.log_lines() - lines) / max(1.0, seconds / 60), 1),
        "told": json.loads(told),
    }
    return found | ({"fresh": fresh.found} if part == "sockets" else {})


def _processor_seconds(process: psutil.Process) -> dict[str, float]:
    """Of the whole server and of all processes on the machine."""
    of_server, machine = process.cpu_times(), psutil.cpu_times()
    busy = machine.user + machine.nice + machine.system
    return {
        "server": of_server.user + of_server.system + of_server.children_user + of_server.children_system,
        "machine": busy,
    }


def _share(client: Client, fps: float, had: int, begun: float) -> float:
    """The share of its frames that a viewer got since it had so many."""
    return round((len(client.frames) - had) / (fps * (time.monotonic() - begun)), 4)


class _Loop:
    """The worst of every second: waits for the event loop in milliseconds; how often the server did not say."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.worst = {"p99_ms": 0.0, "max_ms": 0.0, "answered": 0, "unanswered": 0}

    def look(self) -> None:
        try:
            figures = self._server.metrics()
        except OSError:
            self.worst["unanswered"] += 1
            return
        self.worst["answered"] += 1
        for name in ("p99", "max"):
            ms = round(1000 * figures[f"loop_pause_{name}_seconds"], 1)
            self.worst[f"{name}_ms"] = max(self.worst[f"{name}_ms"], ms)


class _Fresh:
    """Visitors who come for the first time: seconds until they have /healthz and the page."""

    def __init__(self, url: str) -> None:
        self._where = urlsplit(url)
        self.found: dict[str, Any] = {"came": 0, "healthz_max_s": 0.0, "page_max_s": 0.0, "unanswered": 0}

    def come(self) -> None:
        self.found["came"] += 1
        for name, path in (("healthz", "/healthz"), ("page", "/")):
            begun = time.monotonic()
            try:
                status = self._ask(path)
            except (OSError, http.client.HTTPException):
                status = 0
            if status != 200:
                self.found["unanswered"] += 1
            took = round(time.monotonic() - begun, 2)
            self.found[f"{name}_max_s"] = max(self.found[f"{name}_max_s"], took)

    def _ask(self, path: str) -> int:
        host, port = self._where.hostname or "", self._where.port
        caller = http.client.HTTPConnection(host, port, timeout=10, source_address=(_FRESH, 0))
        try:
            caller.request("GET", path)
            with caller.getresponse() as answer:
                answer.read()
                return answer.status
        finally:
            caller.close()


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

    shown = Table("what", "measured", title=f"rivulet web in a flood, {result['sessions']} films at a time")
    shown.add_row("frames of the quiet viewer, alone", f"{result['alone']:.1%}")
    for name, part in result["parts"].items():
        loop = part["loop"]
        shown.add_section()
        shown.add_row(f"{name}, for {part['seconds']:g} s: frames of the quiet viewer", f"{part['share']:.1%}")
        shown.add_row("waits for the event loop, 99 of 100, longest", f"{loop['p99_ms']:g} ms, {loop['max_ms']:g} ms")
        sizes = f"{part['memory'] / 2**20:.0f} MiB, {part['disk'] / 10**6:.0f} MB"
        shown.add_row("memory, disk at most", sizes)
        shown.add_row("lines a minute in the log", f"{part['lines']:g}")
        for what, count in (part["told"] | part.get("fresh", {})).items():
            shown.add_row(f"  {what}", str(count))
    shown.add_section()
    memory, disk, end = result["memory"], result["disk"], result["end"]
    sizes = ", ".join(f"{memory[name] / 2**20:.0f}" for name in ("before", "after", "budget"))
    shown.add_row("memory before, after, budget", f"{sizes} MiB")
    shown.add_row("disk after, budget", f"{disk['after'] / 10**6:.0f}, {disk['budget'] / 10**6:.0f} MB")
    shown.add_row("SIGTERM to the end", f"{end['seconds']:g} s, code {end['code']}")
    shown.add_section()
    for check, passed in result["checks"].items():
        shown.add_row(check, "yes" if passed else "NO")
    return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood(ServerBenchmark):
    """Whether a viewer's film goes on while others ask the live server for all they can; then its end."""

    seconds: Annotated[
        float, typer.Option("--seconds", min=1, max=86400, help="How long the crowd and the sockets stay.")
    ] = 60.0
    sessions: Annotated[
        int | None,
        typer.Option(
            "--sessions",
            min=2,
            max=64,
            help="The server's films at a time, one of them watched; the others are driven by the crowd.",
            show_default="a core each, 2 to 4",
        ),
    ] = None
    visits: Annotated[
        int, typer.Option("--visits", min=1, max=10**6, help="Films opened and left one after another.")
    ] = 300
    half_open: Annotated[int, typer.Option("--half_open", min=1, max=20_000, help="Half-open sockets.")] = 1100
    only: Annotated[str | None, parts_flag(PARTS)] = None
    table = staticmethod(table)

    @property
    def partial(self) -> bool:
        """Some parts are not the table."""
        return self.only is not None

    def measure(self, run: Run) -> dict[str, Any]:
        """See `measure` above."""
        sizes = Sizes(self.seconds, self.sessions or max(2, films_at_once("cpu")), self.visits, self.half_open)
        return measure(sizes, parts=chosen_parts(self.only, PARTS), words=self.words, report=run.report)
