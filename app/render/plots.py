"""Plots over the time of a film, as HTML with inline SVG that needs no script and no library.

Lines are SVG, stretched to the width there is; words are HTML over them, so that they keep their size on a phone.
Thousands of chunks are thinned to bins that keep each bin's least and greatest value: a spike stays visible.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from math import floor, log10

WIDTH, HEIGHT = 1000, 240
"""The drawing's own units; on screen it is stretched."""
BINS = 240
_MARKS = 200
_LABELS = 24
"""Marks beyond which lines, and beyond which numbers, would be a grey wall."""
_TIMES = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)


@dataclass(frozen=True, slots=True)
class Point:
    """A value that held from `start` to `end` (seconds of film), and the least and greatest of what it stands for."""

    start: float
    end: float
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Plot:
    """What to draw: `series` by name share one axis; `stacked` adds them up; `marks` are (second, label)."""

    title: str
    unit: str
    caption: str
    seconds: float
    series: dict[str, Sequence[Point]]
    marks: Sequence[tuple[float, str]] = ()
    stacked: bool = False
    reference: tuple[float, str] | None = None


def draw(plot: Plot) -> str:
    """Return the plot as an HTML figure."""
    series = {name: thin(points, plot.seconds) for name, points in plot.series.items()}
    head = (
        f'<figure class="plot"><figcaption><h3>{escape(plot.title)} <small>{escape(plot.unit)}</small></h3>'
        f"<p>{escape(plot.caption)}</p></figcaption>"
    )
    if all(point.value is None for points in series.values() for point in points):
        return f"{head}</figure>"
    top, step = _axis(_greatest(series, plot))
    layers = _stack(series, plot.seconds, top) if plot.stacked else _lines(series, plot.seconds, top)
    ticks = [step * n for n in range(round(top / step) + 1)]
    grid = "".join(_line(0, _y(tick, top), WIDTH, _y(tick, top), "grid") for tick in ticks)
    marks = _spread(plot.marks, plot.seconds)
    kind = "mark" if len(marks) <= _LABELS else "mark many"
    rules = "".join(_line(x, 0, x, HEIGHT, kind) for x, _ in marks)
    numbers = [(x, label) for x, label in marks if label] if len(plot.marks) <= _LABELS else []
    legend = "".join(
        f'<li><i class="key c{number}"></i>{escape(name)}</li>' for number, name in enumerate(plot.series, 1)
    )
    if plot.reference is not None and plot.reference[0] <= top:
        rules += _line(0, _y(plot.reference[0], top), WIDTH, _y(plot.reference[0], top), "reference")
        legend += f'<li><i class="key dashed"></i>{escape(plot.reference[1])}</li>'
    return (
        head
        + (f'<ul class="legend">{legend}</ul>' if legend.count("<li>") > 1 else "")
        + '<div class="frame"><div class="ys">'
        + "".join(f'<span style="bottom:{100 * tick / top:.1f}%">{_number(tick)}</span>' for tick in ticks)
        + '</div><div class="field">'
        + f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        + f'aria-label="{escape(f"{plot.title}, {plot.unit}: {plot.caption}", quote=True)}">{grid}{layers}{rules}</svg>'
        + "".join(f'<b style="left:{100 * x / WIDTH:.2f}%">{escape(label)}</b>' for x, label in numbers)
        + '</div><div class="xs">'
        + "".join(
            f'<span style="left:{100 * second / plot.seconds:.2f}%">{_clock(second, plot.seconds)}</span>'
            for second in _times(plot.seconds)
        )
        + "</div></div></figure>"
    )


def thin(points: Sequence[Point], seconds: float, bins: int = BINS) -> list[Point]:
    """Merge points that fall into the same of `bins` equal parts of the film: mean, least and greatest value."""
    if len(points) <= bins:
        return list(points)
    thinned: list[Point] = []
    for _, group in groupby(points, key=lambda point: min(bins - 1, int(point.start / seconds * bins))):
        members = list(group)
        values = [point.value for point in members if point.value is not None]
        value = sum(values) / len(values) if values else None
        low, high = (min(values), max(values)) if values else (None, None)
        thinned.append(Point(members[0].start, members[-1].end, value, low, high))
    return thinned


def _lines(series: dict[str, list[Point]], seconds: float, top: float) -> str:
    drawn: list[str] = []
    for number, points in enumerate(series.values(), 1):
        for run in _runs(points):
            if any(point.low is not None for point in run):
                high = [(_x(_middle(point), seconds), _y(point.high or 0, top)) for point in run]
                low = [(_x(_middle(point), seconds), _y(point.low or 0, top)) for point in run]
                drawn.append(f'<path class="band c{number}" d="{_path([*high, *reversed(low)])}Z"/>')
            line = [(_x(_middle(point), seconds), _y(point.value or 0, top)) for point in run]
            ends = [(_x(run[0].start, seconds), line[0][1]), *line, (_x(run[-1].end, seconds), line[-1][1])]
            drawn.append(f'<path class="line c{number}" d="{_path(ends)}"/>')
    return "".join(drawn)


def _stack(series: dict[str, list[Point]], seconds: float, top: float) -> str:
    """Areas on top of each other; a missing value adds nothing."""
    drawn: list[str] = []
    floor_of: list[float] = []
    for number, points in enumerate(series.values(), 1):
        below = floor_of or [0.0] * len(points)
        floor_of = [base + (point.value or 0) for base, point in zip(below, points, strict=True)]
        upper = [(_x(_middle(point), seconds), _y(y, top)) for point, y in zip(points, floor_of, strict=True)]
        lower = [(_x(_middle(point), seconds), _y(y, top)) for point, y in zip(points, below, strict=True)]
        if points:
            start, end = _x(points[0].start, seconds), _x(points[-1].end, seconds)
            upper = [(start, upper[0][1]), *upper, (end, upper[-1][1])]
            lower = [(start, lower[0][1]), *lower, (end, lower[-1][1])]
            drawn.append(f'<path class="area c{number}" d="{_path([*upper, *reversed(lower)])}Z"/>')
    return "".join(drawn)


def _greatest(series: dict[str, list[Point]], plot: Plot) -> float:
    if plot.stacked:
        stacks = zip(*([point.value or 0 for point in points] for points in series.values()), strict=True)
        return max((sum(stack) for stack in stacks), default=0)
    values = [point.high if point.high is not None else point.value for points in series.values() for point in points]
    greatest = max((value for value in values if value is not None), default=0)
    near = plot.reference is not None and plot.reference[0] <= 4 * greatest  # a far one would flatten the line
    return max(greatest, plot.reference[0]) if near and plot.reference is not None else greatest


def _axis(greatest: float) -> tuple[float, float]:
    """Return the axis' end and the step of its ticks: 1, 2 or 5 times a power of ten, three to six of them."""
    if greatest <= 0:
        return 1.0, 0.5
    power = 10.0 ** floor(log10(greatest))
    step = next(power * part for part in (0.2, 0.5, 1, 2) if greatest / (power * part) <= 5)
    return step * -(-greatest * 1.02 // step), step


def _times(seconds: float) -> list[float]:
    step = next((step for step in _TIMES if seconds / step <= 7), 6 * 3600)
    return [step * number for number in range(int(seconds / step) + 1)]


def _clock(second: float, seconds: float) -> str:
    if seconds < 10:
        return f"{second:g} s"
    minutes, rest = divmod(round(second), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if seconds >= 3600 else f"{minutes}:{rest:02d}"


def _spread(marks: Sequence[tuple[float, str]], seconds: float) -> list[tuple[float, str]]:
    """Marks that can be told apart: at most one in each of `_MARKS` places."""
    places = {int(second / seconds * _MARKS): (_x(second, seconds), label) for second, label in reversed(marks)}
    return sorted(places.values())


def _runs(points: Sequence[Point]) -> list[list[Point]]:
    """Stretches without a missing value: a line must not bridge what was not measured."""
    return [list(run) for known, run in groupby(points, key=lambda point: point.value is not None) if known]


def _middle(point: Point) -> float:
    return (point.start + point.end) / 2


def _x(second: float, seconds: float) -> float:
    return WIDTH * second / seconds


def _y(value: float, top: float) -> float:
    return HEIGHT * (1 - value / top)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<path class="{kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def _number(value: float) -> str:
    return f"{round(value, 10):g}"
