"""From a preset's words to its noise plan: needs no tensor, so costs can be counted without torch."""

from __future__ import annotations

from difflib import get_close_matches
from inspect import signature

from cache.types import NoisePlan
from pipelines.presets.base import Preset
from schedulers import NOISE_PLANS


def make_plan(preset: Preset, levels: tuple[float, ...]) -> NoisePlan:
    """The preset's noise plan over these timesteps; ValueError for a plan of no such name."""
    recipe = preset.schedule
    if recipe.plan not in NOISE_PLANS:
        near = get_close_matches(recipe.plan, NOISE_PLANS, n=1, cutoff=0.0)
        raise ValueError(
            f"unknown noise plan {recipe.plan!r}: choose one of {', '.join(NOISE_PLANS)} (nearest: {near[0]})"
        )
    known = signature(NOISE_PLANS[recipe.plan]).parameters
    if preset.first_chunk is not None and "first_chunk" not in known:
        raise ValueError(
            f"preset {preset.name!r} asks for a first chunk of {preset.first_chunk}, but its noise plan "
            f"{recipe.plan!r} begins as it goes on: leave out first_chunk (independent_first_frame)"
        )
    settings: dict[str, object] = {
        "levels": levels,
        "chunk": preset.chunk,
        "step": recipe.step,
        "first_chunk": preset.first_chunk,
        "clean_level": recipe.clean_level,
        "micro_steps": recipe.micro_steps,
        "references": recipe.references,
        "memory": preset.cache.deps,
        "depth": getattr(preset.cache, "depth", 1),
    }
    return NOISE_PLANS[recipe.plan](**{name: settings[name] for name in known})
