"""`rivulet bench v2v`: films of painted videos, judged for what they keep of them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from app.errors import UsageMistake
from app.loading.model import EngineRequest
from benchmarks.benchmark import Run
from benchmarks.quality import v2v
from benchmarks.quality.studio import Studio
from pipelines.presets import PRESETS


@pytest.mark.slow
def test_a_little_strength_follows_the_video_and_all_of_it_does_not() -> None:
    studio = Studio.open(EngineRequest(PRESETS["embedded"], threads=1), lambda text: None)
    result = v2v.measure(studio, prompts=2, seconds=2, strengths=(0.4, 1.0))
    kept, lost = result["rows"]
    assert kept["follows"] | {"low": 0, "high": 0} == {"right": 2, "of": 2, "share": 1.0, "low": 0, "high": 0}
    assert kept["apart"] < lost["apart"]
    assert all(row["pictures_a_second"] > 0 for row in result["rows"])
    shown = io.StringIO()
    Console(file=shown, width=120).print(v2v.table(result))
    assert "real time is 16" in shown.getvalue()


def test_another_model_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(UsageMistake, match="leave out --model"):
        v2v.VideoFilms(model="wan2.1-t2v-1.3b").measure(Run())
