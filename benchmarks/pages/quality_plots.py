"""The plots of docs/quality.md, drawn from benchmarks/results: light, 800 pixels wide and small in bytes.

matplotlib is a tool of development: measuring needs none, and the page's test compares data, not pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.quality.adherence import JUDGED
from benchmarks.quality.switching import KINDS
from benchmarks.quality.targets import ADHERENCE, CHANGE, NAMES, SWITCH

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#444444")
"""Told apart by people who see fewer colours (Okabe and Ito 2008)."""
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
WIDTH, DPI = 8.0, 100
LABELS = {"recache": "re-cache", "soft": "soft, 2 chunks", "keep": "keep", "cut": "cut"}

Results = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture of the page: what it is drawn from (None: not measured), how, and what it shows."""

    name: str
    data: Callable[[Results, Results], Any]
    draw: Callable[[Any], Figure]
    caption: str


def picture(plot: Plot, data: Any) -> Image.Image:
    """Draw it."""
    with matplotlib.rc_context(STYLE):
        content = io.BytesIO()
        plot.draw(data).savefig(content, format="png", facecolor="white")
    return Image.open(content)


def _figure(height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _percent(axes: Axes) -> None:
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _heat(parts: Results, _: Results) -> Any:
    return parts["adherence"]["confusion"] if "adherence" in parts else None


def _draw_heat(tables: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Figure:
    seen = {
        name: list(dict.fromkeys([*table, *(seen for row in table.values() for seen in row)]))
        for name, table in tables.items()
    }
    tallest = [max(len(tables[name]) for name in pair) for pair in (JUDGED[:2], JUDGED[2:])]
    figure = Figure(figsize=(WIDTH, 2.2 + 0.27 * sum(tallest)), dpi=DPI, layout="constrained")
    grid = figure.subplots(2, 2, height_ratios=tallest, squeeze=False)
    for axes, name in zip(grid.flat, JUDGED, strict=True):
        asked, columns = list(tables[name]), seen[name]
        counts = [[tables[name][row].get(column, 0) for column in columns] for row in asked]
        shares = [[count / max(1, sum(row)) for count in row] for row in counts]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for y, row in enumerate(counts):
            for x, count in enumerate(row):
                if count:
                    shade = "white" if shares[y][x] > 0.6 else "#333333"
                    axes.text(x, y, str(count), ha="center", va="center", fontsize=8, color=shade)
        axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(len(asked)), asked, fontsize=8)
        axes.set_title(NAMES[name])
        axes.grid(visible=False)
    return figure


def _switch(parts: Results, _: Results) -> Any:
    return {kind: parts["switch"][kind]["all"]["waits"] for kind in KINDS} if "switch" in parts else None


def _draw_switch(waits: Mapping[str, Sequence[float | None]]) -> Figure:
    figure, (whole, hist) = _figure(3.2, 2)
    longest = max([SWITCH, *(wait for each in waits.values() for wait in each if wait is not None)]) + 0.25
    for colour, (kind, each) in zip(COLOURS, waits.items(), strict=False):
        known = sorted(wait for wait in each if wait is not None)
        steps = [0.0, *known, longest]
        shares = [0.0, *((number + 1) / len(each) for number in range(len(known))), len(known) / len(each)]
        whole.step(steps, shares, where="post", color=colour, label=LABELS[kind], linewidth=2)
    edges = [0.5 * number for number in range(int(longest / 0.5) + 2)]
    known = [[wait for wait in each if wait is not None] for each in waits.values()]
    hist.hist(known, bins=edges, color=COLOURS[: len(known)], label=[LABELS[kind] for kind in waits])
    whole.axvline(SWITCH, color="#999999", linestyle="--", linewidth=1)
    whole.set(title="films in which all is right", xlabel="seconds after the new prompt")
    hist.set(title="films by their wait", xlabel="seconds after the new prompt")
    _percent(whole)
    hist.legend(loc="upper right", fontsize=8)
    return figure


def _steps(parts: Results, _: Results) -> Any:
    if "steps" not in parts:
        return None
    rows = [row for row in parts["steps"]["rows"] if "impossible" not in row]
    return {
        "own": parts["steps"]["own"],
        "steps": [row["steps"] for row in rows],
        "fps": [row["fps"] for row in rows],
        "all": [[row["all"][end] for end in ("low", "high")] for row in rows],
        "shares": {name: [row[name]["share"] for row in rows] for name in (*JUDGED, "all")},
    }


def _draw_steps(data: Mapping[str, Any]) -> Figure:
    figure, (right, fast) = _figure(3.2, 2)
    for colour, (name, shares) in zip(COLOURS, data["shares"].items(), strict=True):
        bold = name == "all"
        right.plot(data["steps"], shares, "o-", color=colour, linewidth=2.4 if bold else 1.4, label=NAMES[name])
    low, high = zip(*data["all"], strict=True)
    right.fill_between(data["steps"], low, high, color=COLOURS[-1], alpha=0.12, linewidth=0)
    fast.plot(data["steps"], data["fps"], "o-", color=COLOURS[0])
    for axes in (right, fast):
        axes.set_xscale("log", base=2)
        axes.set_xticks(data["steps"], [str(count) for count in data["steps"]])
        axes.axvline(data["own"], color="#999999", linestyle="--", linewidth=1)
        axes.set_xlabel("denoising steps")
    right.set_title("films that are right")
    fast.set_title("frames a second, decoded")
    fast.set_ylim(bottom=0)
    _percent(right)
    right.legend(loc="lower right", fontsize=8)
    return figure


def _drift(parts: Results, _: Results) -> Any:
    if "drift" not in parts:
        return None
    names = ("minute", "right", "change")
    return {
        memory: {name: [point[name] for point in parts["drift"][memory]["curve"]] for name in names}
        for memory in ("sink", "no sink")
        if memory in parts["drift"]
    }


def _draw_drift(data: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    figure, (right, change) = _figure(3.2, 2)
    for colour, (memory, curve) in zip(COLOURS, data.items(), strict=False):
        right.plot(curve["minute"], curve["right"], color=colour, linewidth=2, label=memory)
        change.plot(curve["minute"], curve["change"], color=colour, linewidth=2, label=memory)
    change.axhline(CHANGE, color="#999999", linestyle="--", linewidth=1)
    right.axhline(ADHERENCE, color="#999999", linestyle="--", linewidth=1)
    right.set(title="judgements that are right", xlabel="minute")
    change.set(title="pictures' way from the beginning, spreads", xlabel="minute")
    change.set_ylim(bottom=0)
    _percent(right)
    right.legend(loc="lower right")
    return figure


def _ablation(_: Results, ablation: Results) -> Any:
    if not ablation.get("rows"):
        return None
    return [
        {
            "name": row["name"] + (" *" if row["not_trained_for"] else ""),
            "first": row["first"]["right"],
            "last": row["last"]["right"],
            "films": [film["last"] for film in row["of_films"]],
            "waits": row["switch"]["all"]["waits"],
        }
        for row in ablation["rows"]
    ]


def _draw_ablation(rows: Sequence[Mapping[str, Any]]) -> Figure:
    figure, (right, wait) = _figure(1.2 + 0.32 * len(rows), 2)
    blue, orange = COLOURS[0], COLOURS[1]
    for y, row in enumerate(rows):
        right.plot([row["first"], row["last"]], [y, y], color="#bbbbbb", linewidth=2, zorder=1)
        right.plot(row["films"], [y] * len(row["films"]), "|", color=blue, markersize=9, alpha=0.5)
        right.plot(row["first"], y, "o", color="white", markeredgecolor=blue, label="first minute" if not y else None)
        right.plot(row["last"], y, "o", color=blue, label="last minute (bars: films)" if not y else None)
        known = [each for each in row["waits"] if each is not None]
        wait.plot(known, [y] * len(known), "|", color=orange, markersize=9)
        wait.text(1.02, y, f"{len(known)} of {len(row['waits'])}", transform=wait.get_yaxis_transform(), va="center")
    for axes in (right, wait):
        axes.set_yticks(range(len(rows)), [row["name"] for row in rows] if axes is right else [""] * len(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
    right.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    right.set_title("judgements that are right")
    wait.axvline(SWITCH, color="#999999", linestyle="--", linewidth=1)
    wait.set(title="waits for a new prompt; reached", xlabel="seconds")
    wait.set_xlim(-0.1, max([SWITCH + 0.1, *(each for row in rows for each in row["waits"] if each is not None)]) + 0.1)
    lowest = min(min(row["first"], row["last"], *row["films"]) for row in rows)
    right.set_xlim(max(0.0, lowest - 0.1), 1.03)
    figure.legend(loc="outside lower left", ncols=2, fontsize=8)
    return figure


PLOTS = (
    Plot("adherence", _heat, _draw_heat, "what was asked for (rows) and what was seen (columns), in films"),
    Plot("switch", _switch, _draw_switch, "how long a new prompt takes until all it changes is right"),
    Plot("steps", _steps, _draw_steps, "quality and speed against the number of denoising steps; dashed: the preset's"),
    Plot("drift", _drift, _draw_drift, "what becomes of a long film, with a sink and without"),
    Plot("ablation", _ablation, _draw_ablation, "memories side by side; * not trained for"),
)
