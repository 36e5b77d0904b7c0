"""Page of the load benchmark: one HTML file with its figures, plots over the time, and what became of every session."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from app.atomic import write_text
from app.render.plots import Plot, Point, draw
from app.render.report import document, facts, tiles_of
from benchmarks.live.playback import BUFFER, TOLERANCE


def write(result: dict[str, Any], path: Path) -> None:
    """Write the page, whole or not at all."""
    write_text(path, page(result))


def page(result: dict[str, Any]) -> str:
    """The page of what `rivulet bench serve` measured."""
    title = f"{result['sessions_asked']} sessions on rivulet web"
    passed = "All checks passed." if result["passed"] else "Not all checks passed; they stand below."
    figures = result["sessions"]
    kept = figures["deadlines_kept"]
    gap, first = figures["chunk_gap_s"], figures["first_picture_s"]
    tiles = [
        ("–" if kept is None else f"{kept:.2%}", "of the chunks in time", f"of {figures['deadlines']}"),
        (_seconds(first["p50"]), "to the first picture", f"95 of 100 in {_seconds(first['p95'])}"),
        (_seconds(gap["p50"]), "from a chunk to the next", f"95 of 100 in {_seconds(gap['p95'])}"),
        (str(figures["underruns"]), "underruns", f"of {figures['viewers']} viewers, {figures['stalled_s']:g} s in all"),
        (f"{figures['memory_most'] / 2**20:.0f} MiB", "most memory", "of the server and its processes"),
    ]
    checks = [(check, "yes" if true else "NO") for check, true in result["checks"].items()]
    body = [
        f"<header><h1>{escape(title)}</h1><p>{escape(_load(result))}</p>",
        f'<p class="note">{passed}</p></header>',
        tiles_of(tiles),
        f'<h2>How it went</h2><div class="plots">{"".join(map(draw, _plots(result)))}</div>',
        f'<div class="columns">{facts("Figures", list(rows(result)))}{facts("Checks", checks)}</div>',
        _visits(result["visits"]),
    ]
    return document(title, body)


def _load(result: dict[str, Any]) -> str:
    come = f"over {result['arrive']:g} s" if result["arrive"] else "all at once"
    stay = f"for {result['stay']:g} s" if result["stay"] else "to the end"
    return (
        f"preset {result['preset']} · viewers a film: {result['viewers']} · they come {come} and stay {stay} · "
        f"{result['minutes']:g} minutes"
    )


def _plots(result: dict[str, Any]) -> Iterable[Plot]:
    curve: list[dict[str, float]] = result["curve"]
    lasted = max(curve[-1]["at"], 1.0) if curve else 1.0
    figures = result["sessions"]
    yield Plot(
        "Sessions",
        "at a time",
        f"{result['outcomes']['playing']} were let in, {result['outcomes']['refused']} refused",
        lasted,
        {name: _points(curve, [row[name] for row in curve]) for name in ("playing", "waiting")},
    )
    gaps: list[tuple[float, float]] = result["gaps"]
    yield Plot(
        "From a chunk to the next",
        "seconds, of every film",
        f"median {_seconds(figures['chunk_gap_s']['p50'])}, longest {_seconds(figures['chunk_gap_s']['max'])}",
        lasted,
        {"gap": [Point(min(at, lasted), min(at, lasted), gap) for at, gap in gaps]},
    )
    memory = [row["memory"] / 2**20 for row in curve]
    yield Plot("Memory", "MiB", "of the server and its processes", lasted, {"memory": _points(curve, memory)})
    spent = [0.0, *(later["processor"] - before["processor"] for before, later in pairwise(curve))]
    lengths = [1.0, *(later["at"] - before["at"] for before, later in pairwise(curve))]
    cores = [used / max(length, 1e-9) for used, length in zip(spent, lengths, strict=True)][: len(curve)]
    yield Plot("Processor", "cores busy", "of the server and its processes", lasted, {"cores": _points(curve, cores)})


def _points(curve: Sequence[dict[str, float]], values: Sequence[float]) -> list[Point]:
    begins = [0.0, *(row["at"] for row in curve)]
    return [Point(begin, row["at"], value) for begin, row, value in zip(begins, curve, values, strict=False)]


def _visits(visits: Sequence[dict[str, Any]]) -> str:
    head = (
        "asked",
        "places told",
        "let in",
        "first picture",
        "chunks",
        "late",
        "film a second",
        "underruns",
        "outcome",
    )
    body: list[str] = []
    for visit in visits:
        places = visit["places"]
        told = "" if not places else str(places[0]) if len(places) == 1 else f"{places[0]} to {places[-1]}"
        cells = (
            _seconds(visit["asked"]),
            told,
            _seconds(visit["admitted"]),
            _seconds(visit["seen"]),
            visit.get("chunks", ""),
            visit.get("late_chunks", ""),
            visit.get("real_time", ""),
            visit.get("underruns", ""),
            " ".join((visit["outcome"], visit["said"])).strip(),
        )
        body.append("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>")
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    return f"<h2>Sessions</h2><table><thead><tr>{columns}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:g} s"


def rows(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A figure a row, for table and page."""
    figures, outcomes, server = result["sessions"], result["outcomes"], result["server"]

    def of(name: str, unit: str = " s") -> str:
        each = figures[name]
        return "-" if each["p50"] is None else ", ".join(f"{key} {each[key]:g}{unit}" for key in ("p50", "p95", "max"))

    yield (
        "sessions: admitted, of them waited, wait still, refused, lost",
        ", ".join(str(outcomes[name]) for name in ("playing", "waited_before", "waiting", "refused", "lost")),
    )
    yield "start of the process until films can be made", f"{server['ready_s']:g} s"
    yield "admitted to the first picture", of("first_picture_s")
    yield "asked to the first picture", of("asked_to_picture_s")
    yield "wait of those who waited", of("wait_s")
    yield "from a chunk to the next", of("chunk_gap_s")
    least = figures["least_real_time"]
    yield "seconds of film a second, slowest film", "-" if least is None else f"{least:.3f}"
    yield "seconds of film a second that could be made", of("could_be_made_at", "")
    kept, worst = figures["deadlines_kept"], figures["worst_film_kept"]
    yield (
        f"chunks in time ({1000 * TOLERANCE:g} ms), worst film",
        "-" if kept is None else f"{kept:.2%} of {figures['deadlines']}, {worst:.2%}",
    )
    yield (
        f"underruns of {figures['viewers']} viewers with {BUFFER:g} s in hand",
        f"{figures['underruns']}, {figures['stalled_s']:g} s in all",
    )
    most, last = figures["memory_most"], figures["memory_last"]
    yield "memory of the server, most, at the end", f"{most / 2**20:.0f} MiB, {last / 2**20:.0f} MiB"
    yield (
        "processor seconds of the server, of the viewers",
        f"{server['processor_s']:g}, {server['viewers_processor_s']:g} in {server['lasted_s']:g} s",
    )
    if killed := result.get("killed"):
        yield f"an engine killed at {killed['at']:g} s: longest wait for a chunk", f"{killed['longest_gap_s']:g} s"
    if "engines" in server:
        yield "engines at the end, lost", f"{server['engines']:g}, {server['engines_lost']:g}"
    yield "waits for the event loop, 99 of 100", f"{1000 * server['loop_pause_p99_seconds']:.1f} ms"
