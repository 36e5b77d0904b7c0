"""Quality against the number of denoising steps: what a film loses when it is made in fewer, and what it costs."""

from __future__ import annotations

from typing import Any

from benchmarks.quality.adherence import tally_under
from benchmarks.quality.studio import Progress, Studio
from pipelines.presets.knobs import KnobError, apply_knobs, knob_values
from training.captions import held_out_prompts

COUNTS = (1, 2, 4, 8, 32)


def measure(studio: Studio, *, prompts: int, seconds: float) -> dict[str, Any]:
    """The same prompts and seeds with each number of steps, and with the preset's own."""
    own = int(knob_values(studio.engine.preset)["num_inference_steps"])
    counts = sorted({*COUNTS, own})
    asked = held_out_prompts(prompts, seed=4)
    progress = Progress(studio.report, "steps", sum(counts) * prompts, "steps of films")
    rows: list[dict[str, Any]] = []
    for count in counts:
        try:
            preset = apply_knobs(studio.engine.preset, {"num_inference_steps": count})
        except KnobError as error:
            rows.append({"steps": count, "impossible": str(error)})
            continue
        found = tally_under(
            studio, preset, asked, seed=3000, seconds=seconds, done=lambda steps=count: progress.add(steps)
        )
        levels = list(preset.schedule.denoising_step_list)
        rows.append({"steps": count, "levels": levels, **found})
    return {"prompts": prompts, "seconds_a_film": seconds, "own": own, "rows": rows}
