"""Dry run: what a script would become, every shot and every blend with its timecode, and the cost, without a model.

A script asks in seconds and a stream answers in chunks; whoever reads this table sees what was moved and by how much
before a night of rendering.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from app.errors import printable, shorten
from app.render.progress import span
from app.script.timeline import Shot, Timecode, Timeline
from pipelines.types import prompt_text

_PROMPT_WIDTH = 48


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a render will take: wall time, bytes on disk and in memory at most, and what these figures rest on.

    `film_bytes` is what stays on the disk: the film and its .json. `unknown` are words that the model does not know,
    each with those it knows that are nearest.
    """

    seconds: float
    disk_bytes: int
    film_bytes: int
    memory_bytes: int
    basis: str
    unknown: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


def dry_run_lines(
    timeline: Timeline, estimate: Estimate | None = None, *, notes: Sequence[str] = ()
) -> list[RenderableType]:
    """What a person sees: notes, the shots, the chunks of every blend, totals and the estimate."""
    lines: list[RenderableType] = [Text(printable(f"Note: {note}")) for note in notes]
    lines += _shot_lines(timeline)
    blends = [(index + 1, chunk) for index, chunks in timeline.blends() for chunk in chunks]
    if blends:
        lines += _blend_lines(timeline, blends)
    totals = _totals(timeline)
    lines.append(
        Text(
            f"{totals['shots']} shots, {totals['frames']} frames at {timeline.fps:g} fps = {totals['seconds']:.2f} s, "
            f"{totals['latent_frames']} latent frames, {totals['chunks']} chunks."
        )
    )
    if estimate is not None:
        lines.append(
            Text(
                printable(
                    f"About {span(estimate.seconds)} to render, {_size(estimate.disk_bytes)} on disk meanwhile and "
                    f"{_size(estimate.film_bytes)} in the end, {_size(estimate.memory_bytes)} of memory "
                    f"({estimate.basis})."
                )
            )
        )
        lines += [Text(unknown_line(word, near), style="yellow") for word, near in estimate.unknown.items()]
    return lines


def unknown_line(word: str, near: Sequence[str]) -> str:
    """Say that the model does not know a word: silence would look like a bad model."""
    meant = f"; say instead: {', '.join(near)}" if near else ", nor anything like it"
    return f'Hint: the model does not know "{printable(word)}"{meant}.'


def plan_data(timeline: Timeline, *, notes: Sequence[str] = (), written_as: str = "") -> dict[str, Any]:
    """Where the shots come to stand; of blends the chunks alone, because weights tell their texts once a chunk."""
    return {
        "written_as": written_as,
        "fps": timeline.fps,
        "rhythm": asdict(timeline.rhythm),
        "shots": [_shot_data(timeline, index) for index in range(len(timeline.shots))],
        "blends": [{"shot": index + 1, "chunk": chunk} for index, chunks in timeline.blends() for chunk in chunks],
        "totals": _totals(timeline),
        "estimate": None,
        "notes": list(notes),
    }


def dry_run_data(timeline: Timeline, estimate: Estimate | None = None, *, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The same for programs, in plain JSON types; a weighted prompt is a list of [text, weight]."""
    return {
        "fps": timeline.fps,
        "rhythm": asdict(timeline.rhythm),
        "shots": [_shot_data(timeline, index) for index in range(len(timeline.shots))],
        "blends": [
            {
                "shot": index + 1,
                **asdict(timeline.timecode(timeline.rhythm.start_frame(chunk))),
                "weights": [list(share) for share in timeline.blend(chunk)],
            }
            for index, chunks in timeline.blends()
            for chunk in chunks
        ],
        "totals": _totals(timeline),
        "estimate": None if estimate is None else asdict(estimate),
        "notes": list(notes),
    }


def _shot_lines(timeline: Timeline) -> Iterator[Text]:
    """Two lines a shot: a table of all this is wider than a terminal, and cut columns tell nothing."""
    width = len(str(len(timeline.shots)))
    for index, shot in enumerate(timeline.shots):
        asked, given = shot.requested, shot.actual
        chunks = _length(timeline, index)
        facts = f"begins {given}, {chunks} chunk{'s' * (chunks != 1)}"
        if index:
            facts += f", {_transition(shot)}"
        line = Text.assemble((f"shot {index + 1:>{width}}  ", "bold"), facts)
        if asked.frame != given.frame:
            line.append(f"  (asked for t={asked.second:.2f}s, frame {asked.frame})", style="yellow")
        yield line
        yield Text(f"{'':{width + 7}}{_described(shot)}", style="green")


def _blend_lines(timeline: Timeline, blends: Sequence[tuple[int, int]]) -> Iterator[Text]:
    for number, chunk in blends:
        timecode = timeline.timecode(timeline.rhythm.start_frame(chunk))
        yield Text(f"blend into shot {number}  {timecode}", style="bold")
        for text, weight in timeline.blend(chunk):
            yield Text(f"  {weight:.3f} {_short(text)}")


def _shot_data(timeline: Timeline, index: int) -> dict[str, Any]:
    shot = timeline.shots[index]
    return {
        "shot": index + 1,
        "prompt": shot.prompt if isinstance(shot.prompt, str) else [list(share) for share in shot.prompt],
        "requested": _timecode(shot.requested),
        "actual": _timecode(shot.actual),
        "chunks": _length(timeline, index),
        "transition": asdict(shot.transition),
        "parameters": dict(shot.parameters),
    }


def _totals(timeline: Timeline) -> dict[str, Any]:
    return {
        "shots": len(timeline.shots),
        "seconds": round(timeline.frames / timeline.fps, 6),
        "frames": timeline.frames,
        "latent_frames": timeline.rhythm.start(timeline.chunks),
        "chunks": timeline.chunks,
    }


def _length(timeline: Timeline, index: int) -> int:
    following = timeline.shots[index + 1].actual.chunk if index + 1 < len(timeline.shots) else timeline.chunks
    return following - timeline.shots[index].actual.chunk


def _timecode(timecode: Timecode) -> dict[str, float | int]:
    return asdict(timecode)


def _transition(shot: Shot) -> str:
    kind, chunks = shot.transition.kind, shot.transition.chunks
    return f"{kind} {chunks}" if chunks else kind


def _described(shot: Shot) -> str:
    parameters = "".join(f"  {name} {value:g}" for name, value in shot.parameters)
    return _short(prompt_text(shot.prompt)) + parameters


def _short(text: str) -> str:
    return shorten(printable(" ".join(text[:400].split())), _PROMPT_WIDTH)


def _size(count: int) -> str:
    """Bytes for people, in decimal units as disks are sold."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
