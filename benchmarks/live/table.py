"""The table of the live benchmark: a row a figure that was measured, and whether it is as it should be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

PART_NAMES = {
    "wait": "until its chunk begins",
    "recache": "re-cache",
    "remember": "memory pass",
    "rest": "hash, drift, log",
    "pacing": "until its moment",
    "socket": "socket, both ways",
}


def table(result: dict[str, Any]) -> Table:
    """Lay the numbers out for a person."""
    from rich.table import Table

    shown = Table("what", "measured", title=f"rivulet web, {result['preset']}, {result['minutes']:g} minutes")
    for what, measured in _rows(result):
        shown.add_row(what, measured)
    for check, passed in result["checks"].items():
        shown.add_row(check, "yes" if passed else "NO")
    return shown


def _rows(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    start, session = result["start"], result["session"]
    yield "start of the process to hello, first frame", f"{start['cold_hello_s']} s, {start['cold_first_frame_s']} s"
    yield "a further film, to hello, first frame", f"{start['warm_hello_s']} s, {start['warm_first_frame_s']} s"
    length = session["chunk_frames"] / session["fps"]
    yield "a chunk: its length, the time it takes", f"{length:g} s, {result['chunk_s']:.2f} s"
    if page := result.get("browser"):
        yield "page opened to its first picture", f"{page['first_drawn_cold_s']} s, warm {page['first_drawn_warm_s']} s"
        yield "frames drawn a second in a browser", f"{page['drawn_fps']} of {session['fps']:g}"
    if prompts := result.get("prompts"):
        for key, name in (("accepted", "accepted"), ("applied", "applied"), ("seen", "its first frame here")):
            spread = prompts[f"{key}_ms"]
            yield f"prompt to {name}", f"median {spread['median']:g} ms, at most {spread['max']:g} ms"
        for part, spread in prompts["parts_ms"].items():
            yield f"  of it {PART_NAMES.get(part, part)}", f"median {spread['median']:g} ms, p95 {spread['p95']:g} ms"
    if viewers := result.get("viewers"):
        yield "frames a second, one viewer", f"{viewers['alone_fps']} of {session['fps']:g}"
        yield (
            f"{viewers['viewers']} viewers: slowest, encodes a frame",
            f"{viewers['slowest_viewer_fps']} fps, {viewers['encodes_a_frame']}",
        )
    for link in result.get("links", ()):
        age = link["age_s"]
        ages = (
            f"age median {age['median']} s, p95 {age['p95']} s, from the first third to the last {link['growth_s']:+} s"
        )
        yield link["link"], f"{link['fps']} fps; {ages}"
    if memory := result.get("memory"):
        sizes = [f"{memory[f'resident_bytes_{tenth}_tenth'] / 2**20:.0f} MiB" for tenth in ("first", "last")]
        yield "memory, first and last tenth", ", ".join(sizes)
        yield "  from the middle third to the last", f"{memory['growth']:+.2%}"
        times = [memory[f"prompt_ms_{tenth}_tenth"] for tenth in ("first", "last")]
        yield (
            "prompt to applied, first and last tenth",
            ", ".join("-" if ms is None else f"{ms:.0f} ms" for ms in times),
        )
    if leaving := result.get("leaving"):
        yield "everybody gone, until the last chunk", f"{leaving['stopped_after_s']} s"
