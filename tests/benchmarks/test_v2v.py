"""`rivulet bench v2v`: films of painted videos, judged for what they keep of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from app.errors import UsageMistake
from app.loading.engine_request import EngineRequest
from benchmarks.benchmark import Run
from benchmarks.quality import v2v
from benchmarks.quality.bringing_near import brought_near, coloured
from benchmarks.quality.camera_clip import camera_clip
from benchmarks.quality.studio import Studio
from pipelines.presets import PRESETS
from training.captions import held_out_prompts
from training.world import positions


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


def test_a_camera_s_clip_goes_the_way_that_it_is_judged_by() -> None:
    (_, spec), *_ = held_out_prompts(1, seed=6)
    clip = camera_clip(spec, 64, 9, seed=1)
    assert (clip.shape, clip.dtype) == ((9, 64, 64, 3), np.uint8)
    for picture, (across, down) in zip(clip, positions(spec, 9), strict=True):
        blue = picture[..., 2].astype(int) - picture[..., 0] > 60  # the second colour, against nearly grey
        if blue.sum() < 100:  # the disc is out of sight
            continue
        where = np.argwhere(blue).mean(0) / 64
        inside = 0.2 < across < 0.8 and 0.2 < down < 0.8
        assert not inside or np.abs(where - (down, across)).max() < 0.06
    assert not np.array_equal(clip, camera_clip(spec, 64, 9, seed=5))
    assert np.array_equal(clip, camera_clip(spec, 64, 9, seed=1))


@pytest.mark.parametrize("seed", range(4))
def test_what_is_coloured_stays_and_the_rest_becomes_the_ground(seed: int) -> None:
    (_, spec), *_ = held_out_prompts(1, seed=6)
    clip = camera_clip(spec, 96, 1, seed)
    (across, down), ground = positions(spec, 1)[0], np.full((96, 96, 3), 7, np.uint8)
    y, x = np.mgrid[:96, :96] / 96
    far = np.hypot(x - across, y - down)
    mask = coloured(clip[0])
    assert mask[far < 0.08].mean() > 0.6, "the disc"
    assert mask[far > 0.25].mean() < 0.1, "grey clutter in uneven light"
    (made,) = brought_near(clip, ground)
    assert np.abs(made[far > 0.25].astype(int) - 7).mean() < 15
    assert np.abs(made[far < 0.06].astype(int) - clip[0][far < 0.06]).mean() < 40


def test_another_model_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(UsageMistake, match="leave out --model"):
        v2v.VideoFilms(model="wan2.1-t2v-1.3b").measure(Run())
