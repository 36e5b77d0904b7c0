"""docs/training.md and its plot: what each ingredient of the training is worth. `python -m benchmarks.pages.training`.

Made from benchmarks/results/training.json alone, which is the ablation.json that `python -m training ablation` writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.pages.figure_file import digest, drawn_from, save_figure
from benchmarks.pages.quality import RESULTS, ROOT
from benchmarks.pages.quality_plots import DPI, WIDTH, Plot, picture
from training.ablation import ASKED, CLEAR, COLUMNS, LEFT_OUT, RUNS, effects

PAGE, PICTURE = ROOT / "docs" / "training.md", ROOT / "docs" / "training.png"
DARKEST = 0.1
"""Larger error from which on a cell of the plot has its full colour."""
TEXT = """\
# What each ingredient of the training is worth

```sh
python -m training all --out FOLDER          # the whole recipe; training/mix.py says what its steps are made of
python -m training ablation --out FOLDER{options}
python -m benchmarks.pages.training          # this page, from benchmarks/results/training.json
```

{runs} runs of {steps} steps ({batch_size} windows a step, {start}, rate {rate:g}) lack about half of the ingredients
each, by a design in which every ingredient is lacking in {half} runs and every pair of them in {quarter} (Plackett and
Burman 1946). Each run is then asked for the flow of the same held-out windows in {questions} ways. A cell says by how
much the mean square error is larger in the runs without the ingredient; for words, the square of the way that is left
from what a prompt might say as well to what it says. {dummies} columns of the design that have no ingredient say what
chance does (root mean square). Bold is what stands clear of that: more than {clear} times it, as one cell in twenty
does by chance.

A short run says what is learned soonest, not what a long one ends with; the error counts every place of a picture
alike, while a word is often worth a few of them; and that an ingredient costs error elsewhere is the price of what it
teaches, not a reason to leave it out.

"""
CAPTION = (
    "By how much the error is larger without each ingredient, for every way of asking; framed where clear of chance"
)


def page(result: Mapping[str, Any]) -> str:
    """The whole page."""
    options = f" --steps {result['steps']} --batch {result['batch_size']} --rate {result['rate']:g}"
    start = result["start_from"]
    text = TEXT.format(
        runs=RUNS,
        half=RUNS // 2,
        quarter=RUNS // 4,
        steps=result["steps"],
        batch_size=result["batch_size"],
        rate=result["rate"],
        start=f"from {start}" if start else "from random weights",
        questions=len(ASKED),
        dummies=COLUMNS - len(LEFT_OUT),
        clear=CLEAR,
        options=options + (f" --start_from {start}" if start else ""),
    )
    found = {asked: effects(result["errors"], asked) for asked in ASKED}
    everything = result["errors"][str(RUNS - 1)]
    rows = [
        ["without", *ASKED],
        ["---"] * (len(ASKED) + 1),
        ["(error of the run of everything)", *(f"{everything[asked]:.3f}" for asked in ASKED)],
    ]
    for name in LEFT_OUT:
        cells = []
        for values, chance in found.values():
            cell = f"{np.expm1(values[name]):+.1%}"
            cells.append(f"**{cell}**" if abs(values[name]) > CLEAR * chance else cell)
        rows.append([name, *cells])
    rows.append(["(chance)", *(f"{np.expm1(chance):.1%}" for _, chance in found.values())])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{text}![{CAPTION}]({PICTURE.name})\n\n{table}\n"


def draw(errors: Mapping[str, Mapping[str, float]]) -> Figure:
    """Ingredients against ways of asking; red where leaving one out costs, blue where it gains."""
    found = {asked: effects(errors, asked) for asked in ASKED}
    cells = np.array([[found[asked][0][name] for asked in ASKED] for name in LEFT_OUT])
    clear = np.array([[abs(found[asked][0][name]) > CLEAR * found[asked][1] for asked in ASKED] for name in LEFT_OUT])
    figure = Figure(figsize=(WIDTH, 1.6 + 0.3 * len(LEFT_OUT)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.imshow(cells, cmap="RdBu_r", vmin=-DARKEST, vmax=DARKEST, aspect="auto")
    for y, x in np.ndindex(*cells.shape):
        shade = "white" if abs(cells[y, x]) > 0.7 * DARKEST else "#333333"
        weight = "bold" if clear[y, x] else "normal"
        axes.text(
            x, y, f"{np.expm1(cells[y, x]):+.1%}", ha="center", va="center", fontsize=7, color=shade, weight=weight
        )
    for y, x in np.argwhere(clear):
        axes.plot(
            [x - 0.47, x + 0.47, x + 0.47, x - 0.47, x - 0.47],
            [y - 0.45, y - 0.45, y + 0.45, y + 0.45, y - 0.45],
            color="#333333",
            linewidth=0.8,
        )
    axes.set_xticks(range(len(ASKED)), list(ASKED), rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(LEFT_OUT)), [f"without {name}" for name in LEFT_OUT], fontsize=8)
    axes.grid(visible=False)
    return figure


PLOT = Plot("training", lambda _, result: result, draw, CAPTION)


def main() -> None:
    """Write page and plot anew."""
    result = json.loads((RESULTS / "training.json").read_text(encoding="utf-8"))
    if not PICTURE.is_file() or drawn_from(PICTURE) != digest(result["errors"]):
        save_figure(picture(PLOT, result["errors"]), PICTURE, result["errors"])
    PAGE.write_text(page(result), encoding="utf-8")
    print(f"{PAGE} is up to date.")


if __name__ == "__main__":
    main()
