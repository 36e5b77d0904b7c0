"""Load on the live server: many sessions come, wait, are watched and leave, and every viewer keeps count.

The server is `rivulet web` in a process of its own; the sessions and their viewers are this one, and what they take of
the machine is told beside what the server takes.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psutil
import typer

from app.errors import UsageMistake
from benchmarks.benchmark import Run, ServerBenchmark
from benchmarks.live.client import Server
from benchmarks.live.playback import spread
from benchmarks.live.visits import Crowd, Load, Visit, overtaken

if TYPE_CHECKING:
    from rich.table import Table

GONE_ON = 5.0
"""Seconds in which a film goes on when its engine was killed."""
KEPT = 0.99
"""Share of its deadlines that an admitted film keeps, and that all keep together; one chunk may be late."""
_PROMPTS = (
    "a blue star over the snow",
    "a green square over the meadow",
    "a yellow heart at night",
    "a red ball at sea",
)


def measure(
    load: Load, words: Sequence[str], kill: float = 0.0, report: Callable[[str], object] = lambda line: None
) -> dict[str, Any]:
    """Start a server, let everybody come, and count.

    Args:
        load: how many.
        words: flags of the server.
        kill: seconds of film after which an engine is killed with -9; 0: none is.
        report: told how far it is.

    Returns:
        "sessions", the figures of all, "visits" of each, "curve" a row a second; "checks", "passed".
    """
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), list(words))
        try:
            found = asyncio.run(_loaded(server, load, kill, report))
        except BaseException as error:
            told = Path(server.log.name).read_text("utf-8", "replace")[-500:]
            if isinstance(error, KeyboardInterrupt) or not told:
                raise
            raise RuntimeError(f"{error}; the server said: {told}") from error
        finally:
            server.end()
    asked = asdict(load)
    return {"benchmark": "serve", "sessions_asked": asked.pop("sessions"), **asked, **found}


async def _loaded(server: Server, load: Load, kill: float, report: Callable[[str], object]) -> dict[str, Any]:
    ready = await asyncio.to_thread(server.wait_ready)
    report(f"films can be made {ready:.1f} s after the start of the process")
    crowd = Crowd(server, load)
    coming = asyncio.create_task(crowd.come())
    curve: list[dict[str, float]] = []
    ours, theirs = psutil.Process(), _Processor(server)
    own, killed = _seconds(ours), None
    while not coming.done():
        await asyncio.wait([coming], timeout=1.0)
        memory = await asyncio.to_thread(server.resident_with_children)
        used = await asyncio.to_thread(theirs.seconds)
        row = {"at": round(time.time() - crowd.begun, 2), "playing": crowd.playing, "waiting": crowd.waiting}
        curve.append({**row, "memory": memory, "processor": round(used, 2)})
        if kill and killed is None and sum(each["playing"] > 0 for each in curve) >= kill:
            killed = kill_engine(crowd.begun)
            report(f"{row['at']:.0f} s: an engine was killed")
        if len(curve) % 15 == 0:
            report(f"{row['at']:.0f} s: {crowd.playing} play, {crowd.waiting} wait, {memory / 2**20:.0f} MiB")
    coming.result()
    figures = await asyncio.to_thread(server.metrics)
    lasted = time.time() - crowd.begun
    told = {name: figures[name] for name in ("chunks", "underruns", "loop_pause_p99_seconds", "loop_pause_max_seconds")}
    told |= {name: figures[name] for name in ("engines", "engines_lost") if name in figures}
    found = summary(crowd.visits, curve, crowd.begun)
    found["server"] = {
        "ready_s": round(ready, 1),
        **told,
        "processor_s": round(theirs.seconds(), 1),
        "viewers_processor_s": round(_seconds(ours) - own, 1),
        "lasted_s": round(lasted, 1),
    }
    checks = dict(checks_of(crowd.visits))
    if killed is not None:
        longest = max((gap for at, gap in found["gaps"] if at >= killed), default=float("inf"))
        found["killed"] = {"at": killed, "longest_gap_s": longest}
        checks[f"every film went on within {GONE_ON:g} s of the kill"] = longest <= GONE_ON
    return {**found, "checks": checks, "passed": all(checks.values())}


def kill_engine(begun: float) -> float:
    """Kill the first engine that this process, or what it started, has started, with -9; returns when, in seconds.

    The first one has films for sure.

    Raises:
        UsageMistake: there is none among them.
    """
    engines: list[psutil.Process] = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.cmdline() and process.cmdline()[0].startswith("ray::EngineActor"):
                engines.append(process)
    if engines:
        min(engines, key=lambda engine: engine.create_time()).kill()
        return round(time.time() - begun, 2)
    raise UsageMistake("No engine was begun from here. Give --cluster auto where no Ray runs, or make cluster-demo.")


def summary(visits: Sequence[Visit], curve: Sequence[dict[str, float]], begun: float) -> dict[str, Any]:
    """The figures of all visits together, and of each; `begun` is the first one's unix time."""
    films = [visit for visit in visits if visit.film is not None]
    played = [visit.film for visit in visits if visit.film is not None]
    viewers = [each for visit in visits for each in visit.viewers]
    due, kept = sum(film.deadlines for film in played), sum(film.kept for film in played)
    shares = [film.kept / film.deadlines for film in played if film.deadlines]
    hours = sum(each.lasted for each in viewers) / 3600
    underruns = sum(each.underruns for each in viewers)
    memory = [row["memory"] for row in curve] or [0]
    waited = [v.admitted - v.asked for v in visits if v.admitted is not None and v.places]
    return {
        "outcomes": {
            "asked": len(visits),
            **{
                kind: sum(visit.outcome == kind for visit in visits)
                for kind in ("playing", "waiting", "refused", "lost")
            },
            "waited_before": sum(bool(visit.places) for visit in visits if visit.admitted is not None),
        },
        "sessions": {
            "first_picture_s": spread([v.seen - v.admitted for v in films if v.seen is not None and v.admitted]),
            "asked_to_picture_s": spread([v.seen - v.asked for v in films if v.seen is not None]),
            "wait_s": spread(waited),
            "chunk_gap_s": spread([gap for film in played for _, gap in film.gaps]),
            "real_time": spread([film.real_time for film in played if film.real_time is not None]),
            "least_real_time": min((film.real_time for film in played if film.real_time is not None), default=None),
            "could_be_made_at": spread([visit.rate for visit in films if visit.rate is not None]),
            "deadlines": due,
            "deadlines_kept": round(kept / due, 5) if due else None,
            "worst_film_kept": round(min(shares), 5) if shares else None,
            "viewers": len(viewers),
            "underruns": underruns,
            "underruns_a_viewer_hour": round(underruns / hours, 2) if hours else None,
            "stalled_s": round(sum(each.stalled for each in viewers), 2),
            "memory_first": memory[0],
            "memory_most": max(memory),
            "memory_last": memory[-1],
        },
        "visits": [_row(visit) for visit in sorted(visits, key=lambda visit: visit.asked)],
        "gaps": sorted((round(at - begun, 2), round(gap, 3)) for film in played for at, gap in film.gaps),
        "curve": list(curve),
    }


def _row(visit: Visit) -> dict[str, Any]:
    times = {
        name: None if (at := getattr(visit, name)) is None else round(at, 2) for name in ("asked", "admitted", "seen")
    }
    film = visit.film
    played = (
        {}
        if film is None
        else {
            "chunks": film.deadlines + 1,
            "late_chunks": film.deadlines - film.kept,
            "real_time": None if film.real_time is None else round(film.real_time, 3),
            "underruns": sum(each.underruns for each in visit.viewers),
        }
    )
    return {**times, "places": visit.places, "outcome": visit.outcome, "said": visit.said, **played}


def checks_of(visits: Sequence[Visit]) -> Iterator[tuple[str, bool]]:
    """What has to hold, and whether it does."""
    answered = all(v.outcome == "playing" or v.places or (v.outcome == "refused" and v.said) for v in visits)
    yield "everybody was admitted, waits with a number, or was refused in a sentence", answered
    yield "no film was lost", all(visit.outcome != "lost" for visit in visits)
    yield "who came first was let in first", not overtaken(visits)
    films = [visit.film for visit in visits if visit.film is not None]
    all_due, all_late = sum(film.deadlines for film in films), sum(film.deadlines - film.kept for film in films)
    of_all = all_late <= max(1, (1 - KEPT) * all_due)
    of_each = all(film.deadlines - film.kept <= max(1, (1 - KEPT) * film.deadlines) for film in films)
    yield f"the films kept {KEPT:.0%} of their deadlines, each of them and together", all_due > 0 and of_all and of_each


class _Processor:
    """Processor seconds of a server and all it has started, of those that ended as well."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._of: dict[int, float] = {}

    def seconds(self) -> float:
        for process in (self._server.process, *self._server.process.children(recursive=True)):
            with suppress(psutil.Error):
                self._of[process.pid] = _seconds(process)
        return sum(self._of.values())


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def table(result: dict[str, Any]) -> Table:
    """Lay the numbers out for a person."""
    from rich.table import Table

    from benchmarks.live.serve_page import rows

    load = f"{result['sessions_asked']} sessions, {result['viewers']} viewers each, {result['minutes']:g} minutes"
    shown = Table("what", "measured", title=f"rivulet web under load: {load}")
    for what, measured in rows(result):
        shown.add_row(what, measured)
    for check, passed in result["checks"].items():
        shown.add_row(check, "yes" if passed else "NO")
    return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve(ServerBenchmark):
    """The live server under load: sessions that come, wait, play and leave, and what their viewers see."""

    sessions: Annotated[int, typer.Option("--sessions", min=1, max=1000, help="Films that are asked for.")] = 4
    viewers: Annotated[int, typer.Option("--viewers", min=1, max=64, help="Of each film, its driver among them.")] = 2
    minutes: Annotated[float, typer.Option("--minutes", min=0.05, max=1440, help="From the first who comes.")] = 1.0
    arrive: Annotated[
        float, typer.Option("--arrive", min=0, metavar="SECONDS", help="Over which they come; 0: all at once.")
    ] = 0.0
    stay: Annotated[
        float, typer.Option("--stay", min=0, metavar="SECONDS", help="For which a film is watched; 0: to the end.")
    ] = 0.0
    max_sessions: Annotated[
        int, typer.Option("--max_sessions", min=0, max=64, help="Films at a time, as of rivulet web.")
    ] = 0
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="auto|HOST:PORT", help="As of rivulet web.", show_default="none")
    ] = None
    kill: Annotated[
        float,
        typer.Option("--kill", min=0, metavar="SECONDS", help="Of film after which an engine is killed; 0: none."),
    ] = 0.0
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="An HTML page of it.", show_default="none")
    ] = None
    table = staticmethod(table)

    def measure(self, run: Run) -> dict[str, Any]:
        """See `measure` above."""
        if self.page is not None and not self.page.absolute().parent.is_dir():
            raise UsageMistake(f"There is no folder {self.page.parent}. Create it, or give another file.")
        if self.kill and self.cluster is None:
            raise UsageMistake("--kill ends an engine of a cluster. Give --cluster auto.")
        words = [*self.words, "--max_sessions", str(self.max_sessions)]
        words += [] if self.cluster is None else ["--cluster", self.cluster]
        load = Load(self.sessions, self.viewers, self.minutes, self.arrive, self.stay)
        found = measure(load, words, self.kill, run.report)
        found = {"preset": self.preset, **found}
        if self.page is not None:
            from benchmarks.live.serve_page import write

            write(found, self.page)
            run.report(f"Page: {self.page}")
        return found
