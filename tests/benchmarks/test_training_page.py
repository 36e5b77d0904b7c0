"""docs/training.md says what the training's ablation found, and its plot was drawn from that."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.pages.figure_file import digest, drawn_from
from benchmarks.pages.quality_plots import picture
from benchmarks.pages.training import PAGE, PICTURE, PLOT, RESULTS, page
from training.ablation import ASKED, LEFT_OUT, RUNS, lacking


def made_up(worth: float) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    errors = {
        str(run): {asked: float(0.3 * np.exp(rng.normal(0, 0.003) + worth * (3 in lacking(run)))) for asked in ASKED}
        for run in range(RUNS)
    }
    return {"steps": 7, "batch_size": 2, "rate": 0.5, "seed": 0, "start_from": None, "errors": errors}


def test_the_page_and_its_plot_are_of_the_newest_figures() -> None:
    result = json.loads((RESULTS / "training.json").read_text("utf-8"))
    assert PAGE.read_text("utf-8") == page(result)
    assert drawn_from(PICTURE) == digest(result["errors"])
    with Image.open(PICTURE) as drawn:
        assert drawn.width == 800


def test_the_page_says_how_it_was_measured_and_marks_what_is_clear_of_chance() -> None:
    result = made_up(0.05)
    text = page(result)
    assert "--steps 7 --batch 2 --rate 0.5" in text
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert set(LEFT_OUT) < set(rows)
    assert rows[list(LEFT_OUT)[3]].count("**") == 2 * len(ASKED)
    assert sum(row.count("**") for row in rows.values()) < 2 * len(ASKED) + 40
    assert "--start_from run" in page({**result, "start_from": "run"})
    assert picture(PLOT, result["errors"]).width == 800
