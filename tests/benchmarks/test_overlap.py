"""What overlapping chunks cost is measured against the film as it was published, way by way."""

from __future__ import annotations

import numpy as np
import pytest

from app.errors import UsageMistake
from benchmarks.quality.overlap import PUBLISHED, Overlap, apart, chosen, ways
from cache.dual_scope import DualScope
from pipelines.presets import PRESETS
from pipelines.presets.cascaded import depth_of


def test_a_preset_is_measured_at_every_depth_or_under_every_scope() -> None:
    depths = ways(PRESETS["longlive"])
    assert [depth_of(preset) for preset in depths.values()] == [1, 2, 3, 4, 5]
    scopes = ways(PRESETS["streamdit"])
    assert scopes[PUBLISHED] == PRESETS["streamdit"]
    assert scopes["scope 4+2"].dual_scope == DualScope(4, 2)
    assert [*chosen(depths, "cascade 5, cascade 2")] == [PUBLISHED, "cascade 5", "cascade 2"]
    with pytest.raises(UsageMistake, match="cascade 2"):
        chosen(depths, "cascade 9")


def test_the_further_pictures_are_apart_the_fewer_decibels() -> None:
    true = [np.full((4, 8, 8, 3), 100, np.uint8)] * 3
    near, far = ([each + np.uint8(step) for each in true] for step in (1, 10))
    assert apart(true, near) == pytest.approx(10 * np.log10(255**2))
    assert apart(true, true) > apart(true, near) > apart(true, far)


def test_numbers_are_laid_out_whatever_was_measured() -> None:
    right = {"share": 0.5, "right": 1, "of": 2}
    wait = {"all": {"median": 1.25}}
    rows = {
        PUBLISHED: {"decibels": None, "adherence": {"all": right}},
        "cascade 2": {"decibels": 40.0, "switch": {"recache": wait, "keep": {"all": {"median": None}}}},
        "another seed": {"decibels": 16.0},
    }
    table = Overlap.table({"rows": rows})
    columns = [[*column.cells] for column in table.columns]
    assert columns[1] == ["-", "40.0", "16.0"]
    assert columns[2] == ["50% of 2", "-", "-"]
    assert columns[3:5] == [["-", "1.25 s", "-"], ["-", "-", "-"]]
