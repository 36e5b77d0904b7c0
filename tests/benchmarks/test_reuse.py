"""`rivulet bench cache` and docs/reuse.md: figures that move when what they measure does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.pages.reuse import NUMBERS, PAGE, page
from benchmarks.quality.layer_count import counted
from benchmarks.quality.reuse import cells, decibels, ways
from cache import FEATURE_CACHES
from pipelines.presets import PRESETS


def test_the_page_is_what_its_numbers_say() -> None:
    numbers = json.loads(NUMBERS.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == page(numbers), "run: python -m benchmarks.pages.reuse"
    numbers["rows"]["taylorseer"]["worst"] = 99.0
    numbers["rows"]["taylorseer"]["speed"] = 2.0
    assert "`taylorseer` is worth switching on" in page(numbers)


def test_every_cache_is_measured_beside_fewer_steps() -> None:
    assert list(ways(PRESETS["embedded"])) == ["3 steps", "2 steps", *FEATURE_CACHES, "int8 memory", "int4 memory"]
    assert set(json.loads(NUMBERS.read_text(encoding="utf-8"))["rows"]) >= {"exact", "3 steps", "2 steps"}


def test_what_can_be_saved_is_what_the_literature_says() -> None:
    few, many = counted(30, 4), counted(30, 50)
    assert few["clean-pass"] == pytest.approx((4 + 0.1) / 5)
    assert few["taylorseer"] == pytest.approx(4 / 5), "of four steps one can be foretold"
    assert few["step-rehash"] == pytest.approx((2 + 2 / 30 + 1) / 5)
    assert few["cross-chunk"] == pytest.approx((4 * (1 + 1 / 30) / 2 + 1) / 5)
    assert few["first-block"] == pytest.approx((1 + 3 / 30 + 1) / 5)
    assert few["planned"] == few["step-rehash"], "without a profile every other pass"
    assert few["profiled"] == pytest.approx((2 + 2 * 12 / 30 + 1) / 5)
    assert few["teacache"] == pytest.approx((2 + 1) / 5, abs=0.05), "first and last pass are computed"
    assert many["clean-pass"] > 0.98
    assert many["taylorseer"] < 0.55


def test_decibels_and_cells_say_what_they_are() -> None:
    dark, light = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 16, np.uint8)
    assert decibels(dark, light) == pytest.approx(20 * np.log10(255 / 16))
    assert decibels(dark, dark) > 100
    row = {"layers": 0.5, "speed": 1.5, "psnr": 40.0, "worst": 30.0, "bytes": 2**20}
    assert cells("x", row) == ("x", "50 %", "1.50x", "40.0", "30.0", "-", "1.0")
