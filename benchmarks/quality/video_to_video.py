"""Painted films made over under another prompt: what comes from the words, and what still follows the film.

The source shows the same object on the same way, in another colour and another scene. Beginning later in the sampler's
levels keeps more of it: between following the film and following the words one has to choose.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.errors import UsageMistake
from benchmarks.quality.adherence import Judgement, tally
from benchmarks.quality.intervals import share
from benchmarks.quality.painted import paint
from benchmarks.quality.studio import Progress, Studio, play
from models.taehv import AutoencoderTAEHV
from pipelines.build import make_schedule
from pipelines.presets import Preset
from pipelines.types import Start
from training.captions import held_out_prompts
from training.pairs import around
from training.world import COLORS, SCENES, ClipSpec, positions

NEAR = 0.1
"""A film follows its source when its object is so near to the source's one half of the time, in picture sizes."""


def measure(studio: Studio, *, prompts: int, seconds: float) -> dict[str, Any]:
    """The same prompts, seeds and sources, from noise alone and from each of the sampler's later levels.

    Raises:
        UsageMistake: the model has another autoencoder than the one that encodes here.
    """
    encoder = studio.loaded.components.autoencoder
    if not isinstance(encoder, AutoencoderTAEHV):
        raise UsageMistake("Video to video is measured with the embedded model's autoencoder: leave out --model.")
    asked = held_out_prompts(prompts, seed=6)
    levels = make_schedule(studio.engine.preset.schedule)[1]
    progress = Progress(studio.report, "video", len(levels) * prompts)
    rows: list[dict[str, Any]] = []
    for passed in range(len(levels)):
        preset, level = begin_late(studio.engine.preset, passed), levels[passed]
        judged: list[Judgement] = []
        apart: list[float] = []
        for index, (text, spec) in enumerate(asked):
            stream = studio.stream(6000 + index, preset)
            source = paint(other_looks(spec, index), studio.size[0], round((seconds + 1) * stream.fps) // 4 * 4 + 1)
            with torch.inference_mode():
                latents = encoder.encode(source[None].float() / 255, pad="start")

            def camera(frames: range, latents: Tensor = latents, level: float = level) -> Start:
                return Start(latents[:, frames.start : frames.stop], level / 1000, level)

            film = play(stream, text, seconds, camera=camera if passed else None)
            judged.append(Judgement.of(studio.scorer, film, spec))
            apart.append(distance(judged[-1].verdict.track, spec))
            progress.add()
        follows = share(sum(gap < NEAR for gap in apart), len(apart))
        rows.append({"noise": level / 1000, "apart": median(apart), "follows": follows, **tally(judged)})
    return {"prompts": prompts, "seconds_a_film": seconds, "rows": rows}


def begin_late(preset: Preset, passed: int) -> Preset:
    """The preset without the steps before level `passed`; a camera's start stands in for the first that is left."""
    steps = preset.schedule.denoising_step_list
    return replace(preset, schedule=replace(preset.schedule, denoising_step_list=(steps[0], *steps[passed + 1 :])))


def other_looks(spec: ClipSpec, index: int) -> ClipSpec:
    """The same object on the same way, in another colour and scene."""
    colors = [color for color in COLORS if color != spec.color]
    scenes = [scene for scene in SCENES if scene != spec.scene]
    return replace(spec, color=colors[index % len(colors)], scene=scenes[index % len(scenes)])


def distance(track: np.ndarray, spec: ClipSpec) -> float:
    """Median way from the seen object [T, 2] to where the clip has it, in picture sizes; out of sight is far."""
    true = positions(spec, len(track))
    inside = np.all((true > 0) & (true < 1), axis=1)
    gap = np.hypot(*around(track - true).T)
    return float(np.median(np.where(np.isnan(gap), 1.0, gap)[inside])) if inside.any() else 1.0
