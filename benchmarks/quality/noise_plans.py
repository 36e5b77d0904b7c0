"""The same prompts under every noise plan: what one set of weights makes of all the ways in which it can be asked."""

from __future__ import annotations

from typing import Any

from benchmarks.quality.adherence import tally_under
from benchmarks.quality.preset_films import strangers, with_sampler
from benchmarks.quality.studio import Progress, Studio
from pipelines.presets import PRESETS, Preset
from pipelines.presets.knobs import apply_knobs
from training.captions import held_out_prompts


def ways(own: Preset) -> dict[str, Preset]:
    """What to ask with: the preset itself, in chunks of one latent frame, and one preset of each other noise plan."""
    found = {own.name: own}
    if own.chunk > 1:
        found[f"{own.name}, chunks of 1"] = apply_knobs(own, {"num_frame_per_block": 1})
    for preset in PRESETS.values():
        if preset.plan not in {each.plan for each in found.values()}:
            found[preset.name] = with_sampler(preset)
    return found


def measure(studio: Studio, *, prompts: int, seconds: float) -> dict[str, Any]:
    """The same prompts and seeds each way, with the model's own sampler: levels belong to weights, not to plans."""
    asked = held_out_prompts(prompts, seed=5)
    chosen = ways(studio.engine.preset)
    progress = Progress(studio.report, "plans", len(chosen) * prompts)
    rows: list[dict[str, Any]] = []
    for name, preset in chosen.items():
        found = tally_under(studio, preset, asked, seed=5000, seconds=seconds, done=progress.add)
        missing = strangers(preset, studio.card)
        rows.append({"name": name, "plan": preset.plan, "chunk": preset.chunk, "not_trained_for": missing, **found})
    return {"prompts": prompts, "seconds_a_film": seconds, "rows": rows}
