"""Report of a render as one HTML page: pictures, plots, shots, settings, how to repeat it.

One file that opens anywhere and may be mailed: no script, nothing loaded from elsewhere (a Content-Security-Policy
in the page forbids both), every text of a person escaped, at most 3 MB for an hour of film.
"""

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from statistics import median
from urllib.parse import quote

from app.atomic import write_text
from app.errors import printable, shorten
from app.media.thumbnails import jpegs, spaced
from app.record.sidecar import ChunkRecord, ShotRecord, Sidecar
from app.render.plots import Plot, Point, draw
from app.render.progress import clock, span
from pipelines.types import prompt_text

_STRIP, _SHOT_PICTURES = 12, 36
"""Evenly spaced pictures; shots that have a picture of their own."""
_PICTURE_LIMIT = 1_800_000
_ROWS, _TEXT = 200, 400
"""Rows of a table and letters of a text that are shown; the sidecar has all of them."""
_HOPS = ("conditioning", "plan", "denoise", "remember", "decode", "encode")
"""Where a chunk's time goes; "model" is a part of denoise and remember, so it would be counted twice."""


def write(record: Sidecar, film: Path, path: Path) -> None:
    """Write the page of a film, whole or not at all.

    Args:
        record: the film's sidecar.
        film: the film itself, for its pictures: MP4, GIF, WebP, or PNGs by folder or pattern.
        path: where the page goes; an existing file is replaced.

    Raises:
        ValueError: the film cannot be read.
        OSError: the film cannot be opened or the page not be written.
    """
    write_text(path, page(record, film, path))


def page(record: Sidecar, film: Path, path: Path) -> str:
    """Return the page; a link leads from `path` to the film."""
    shown = [shot for shot in record.shots if shot.actual.frame < record.film.frames]
    middles = _middles(shown, record.film.frames)
    pictured = spaced(range(len(shown)), _SHOT_PICTURES)
    strip = spaced(range(record.film.frames), _STRIP)
    pictures = jpegs(film, [*strip, *(middles[index] for index in pictured)], limit=_PICTURE_LIMIT)
    of_shots = {index: pictures[middles[index]] for index in pictured if middles[index] in pictures}
    body = [
        _header(record, film, path),
        _tiles(record),
        _strip([(number, pictures[number]) for number in strip if number in pictures], record.film.fps),
        f'<h2>How it went</h2><div class="plots">{"".join(map(draw, _plots(record, shown)))}</div>',
        _shots(shown, of_shots, record),
        _again(record),
        _settings(record),
    ]
    return document(f"{record.film.file}: {record.film.seconds:.2f} s by Rivulet", body)


def document(title: str, body: Sequence[str]) -> str:
    """A page in the report's style, of parts that are HTML already."""
    style = (resources.files("app.render") / "report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def command(record: Sidecar) -> str:
    """Return the shell command that makes the same film again and compares the two."""
    name = record.film.file if not record.film.file.startswith("-") else f"./{record.film.file}"
    return shlex.join(["rivulet", "replay", name, "--check"])


def _header(record: Sidecar, film: Path, path: Path) -> str:
    made = record.film
    size = f"{made.width * made.scale}×{made.height * made.scale}"
    link = quote(Path(os.path.relpath(film.absolute(), path.absolute().parent)).as_posix())
    facts = [
        f"{made.seconds:.2f} s",
        f"{made.frames} frames",
        f"{size} at {made.fps:g} fps",
        f"seed {record.seed}",
        f"preset {record.config.preset}",
        f"model {record.model.name}",
    ]
    early = "" if record.status == "whole" else f'<p class="note">This film {_text(record.status)}.</p>'
    return (
        f'<header><h1><a href="./{escape(link, quote=True)}">{_text(made.file)}</a></h1>'
        f"<p>{' · '.join(_text(fact) for fact in facts)}</p>{early}</header>"
    )


def _tiles(record: Sidecar) -> str:
    timing = record.timing
    drifts = [chunk.drift for chunk in record.chunks if chunk.drift is not None]
    memory = max((chunk.memory for chunk in record.chunks), default=0)
    tiles = [
        (f"{timing.fps:.1f}", "frames a second, end to end", f"{timing.fps / record.film.fps:.2f} × real time"),
        (f"{timing.first_frame:.2f} s", "to the first frame", f"after {timing.load:.2f} s of loading"),
        (span(timing.render), "of rendering", f"{len(record.chunks)} chunks"),
        (_gib(memory), "most memory", f"on {_text(record.config.device)}, CPU threads: {record.config.threads}"),
        (f"{drifts[-1]:.2f}" if drifts else "–", "drift at the end", f"greatest {max(drifts):.2f}" if drifts else ""),
    ]
    return tiles_of(tiles)


def tiles_of(tiles: Iterable[tuple[str, str, str]]) -> str:
    """Figures side by side: value, what it is, and a remark, each HTML already."""
    return (
        '<ul class="tiles">'
        + "".join(f"<li><b>{value}</b><span>{what}</span><small>{more}</small></li>" for value, what, more in tiles)
        + "</ul>"
    )


def _strip(pictures: Sequence[tuple[int, str]], fps: float) -> str:
    cells = "".join(
        f'<figure><img src="{uri}" alt="Frame {number}"><figcaption>{clock(number / fps)}</figcaption></figure>'
        for number, uri in pictures
    )
    return f'<h2>The film</h2><div class="strip">{cells}</div>'


def _plots(record: Sidecar, shots: Sequence[ShotRecord]) -> Iterable[Plot]:
    chunks, film = record.chunks, record.film
    marks = [(shot.actual.second, str(number)) for number, shot in enumerate(shots, 1) if number > 1]
    spans = _spans(chunks, film.fps)
    seconds = spans[-1][1] if spans else film.seconds

    def points(values: Iterable[float | None]) -> list[Point]:
        return [Point(start, end, value) for (start, end), value in zip(spans, values, strict=True)]

    # A cut last chunk was made whole: what was made, not what is shown, is the work that the time was spent on.
    speeds = [(chunk.frames[1] - chunk.frames[0]) / max(_work(chunk), 1e-9) for chunk in chunks]
    yield Plot(
        "Speed",
        "frames a second",
        f"median {median(speeds):.1f}, slowest chunk {min(speeds):.1f}, fastest {max(speeds):.1f}" if speeds else "",
        seconds,
        {"this film": points(speeds)},
        marks,
        reference=(film.fps, f"real time, {film.fps:g} fps"),
    )
    hops = [hop for hop in _HOPS if any(hop in chunk.seconds for chunk in chunks)]
    total = sum(map(_work, chunks)) or 1.0
    parts = {hop: sum(chunk.seconds.get(hop, 0) for chunk in chunks) / total for hop in hops}
    largest = sorted(parts, key=lambda hop: -parts[hop])[:3]
    yield Plot(
        "Where the time goes",
        "seconds a chunk",
        ", ".join(f"{hop} {parts[hop]:.0%}" for hop in largest),
        seconds,
        {hop: points(chunk.seconds.get(hop) for chunk in chunks) for hop in hops},
        marks,
        stacked=True,
    )
    drifts = [chunk.drift for chunk in chunks if chunk.drift is not None]
    yield Plot(
        "Drift",
        "distance from the start of the shot, 0 is none",
        f"median {median(drifts):.2f}, greatest {max(drifts):.2f}" if drifts else "the film is too short to tell",
        seconds,
        {"drift": points(chunk.drift for chunk in chunks)},
        marks,
    )
    memory = [chunk.memory / 2**30 for chunk in chunks]
    yield Plot(
        "Memory",
        "GiB",
        f"first chunk {memory[0]:.2f}, last {memory[-1]:.2f}, most {max(memory):.2f}" if memory else "",
        seconds,
        {"memory": points(memory)},
        marks,
    )


def _shots(shots: Sequence[ShotRecord], pictures: Mapping[int, str], record: Sidecar) -> str:
    ends = [shot.actual.second for shot in shots[1:]] + [record.film.seconds]
    rows: list[str] = []
    for index, (shot, end) in enumerate(zip(shots[:_ROWS], ends, strict=False)):
        asked = f"asked {clock(shot.requested.second)}" if shot.requested != shot.actual else ""
        begin = shot.actual
        place = f"frame {begin.frame}, latent {begin.latent}, chunk {begin.chunk}"
        picture = f'<img src="{pictures[index]}" alt="">' if index in pictures else ""
        rows.append(
            f'<tr><th scope="row">{index + 1}</th><td class="thumb">{picture}</td>'
            f"<td><b>{clock(begin.second)}</b> <small>{asked}</small><small>{place}</small></td>"
            f"<td>{end - begin.second:.2f} s</td><td><bdi>{_text(prompt_text(shot.prompt))}</bdi></td></tr>"
        )
    more = len(shots) - len(rows)
    note = f"<p>And {more} more shots, which the film's .json lists.</p>" if more > 0 else ""
    return (
        '<h2>Shots</h2><table class="shots"><thead><tr><th scope="col">#</th><th></th><th scope="col">begins</th>'
        '<th scope="col">lasts</th><th scope="col">prompt</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>{note}"
    )


def _again(record: Sidecar) -> str:
    return (
        "<h2>Make it again</h2><p>The same film bit for bit: same machine, versions and threads. Elsewhere it is the "
        f"same noise and very nearly the same pictures.</p><pre>{escape(command(record))}</pre>"
    )


def _settings(record: Sidecar) -> str:
    config = record.config.model_dump(exclude={"script"})
    film = record.film.model_dump()
    return (
        '<div class="columns">'
        + facts("Settings", [("seed", record.seed), *_flat(config)])
        + "<div>"
        + facts("Versions and machine", [*record.versions.items(), *record.machine.items()])
        + facts("Film", [*_flat(film), ("model", record.model.name), ("model sha256", record.model.sha256)])
        + "</div></div>"
    )


def facts(title: str, entries: Sequence[tuple[str, object]]) -> str:
    """A table of names and values, which may be of people."""
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(str(value))}</td></tr>' for name, value in entries
    )
    return f'<section><h2>{title}</h2><table class="facts"><tbody>{rows}</tbody></table></section>'


def _flat(data: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Nested entries as `cache.window`, at most `_ROWS` of them."""
    rows: list[tuple[str, object]] = []
    for name, value in data.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(value, list | tuple):
            rows.append((prefix + name, ", ".join(map(str, value))))  # pyright: ignore[reportUnknownArgumentType]
        else:
            rows.append((prefix + name, "–" if value is None else value))
    return rows[:_ROWS]


def _spans(chunks: Sequence[ChunkRecord], fps: float) -> list[tuple[float, float]]:
    """Begin and end of each chunk in the film, in seconds."""
    spans: list[tuple[float, float]] = []
    frames = 0
    for chunk in chunks:
        spans.append((frames / fps, (frames + chunk.shown) / fps))
        frames += chunk.shown
    return spans


def _work(chunk: ChunkRecord) -> float:
    return sum(seconds for hop, seconds in chunk.seconds.items() if hop != "model")


def _middles(shots: Sequence[ShotRecord], frames: int) -> list[int]:
    """The frame in the middle of each shot: its picture, past the change and before the next."""
    starts = [shot.actual.frame for shot in shots]
    return [(start + end) // 2 for start, end in zip(starts, [*starts[1:], frames], strict=False)]


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.0f} MiB"


def _text(text: str) -> str:
    return escape(printable(shorten(text, _TEXT)))
