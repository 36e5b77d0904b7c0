"""A preset as a cascade, whose chunks begin on half-denoised keys of those before (schedulers/cascade.py), and back."""

from __future__ import annotations

from dataclasses import replace

from cache.fifo import SinkWindow
from cache.in_flight import InFlight, Preceding
from cache.windows import AllRemembered
from pipelines.presets.base import Preset


def depth_of(preset: Preset) -> int:
    """How many of its chunks are on their way at once."""
    return preset.cache.depth if isinstance(preset.cache, InFlight) else 1


def cascaded(preset: Preset, depth: int) -> Preset:
    """The preset with so many chunks on their way at once; 1 is one after the other, as it was published.

    Args:
        preset: a cascade or none; its chunk, window and sink are followed.
        depth: 1 or more.

    Raises:
        ValueError: it cannot be one; the sentence says why.
    """
    cache, window = preset.cache, preset.window
    if isinstance(cache, InFlight) and isinstance(window, Preceding):
        if depth == cache.depth and cache.chunk == preset.chunk:
            return preset
        schedule = replace(preset.schedule, plan="serial")
        plain = SinkWindow(cache.window, cache.sink)
        preset = replace(preset, schedule=schedule, cache=plain, window=AllRemembered(window.past_weight))
        return cascaded(preset, depth)
    if depth == 1:
        return preset
    if (
        preset.schedule.plan != "serial"
        or not isinstance(cache, SinkWindow)
        or cache != SinkWindow(cache.window, cache.sink)
        or not isinstance(window, AllRemembered)
        or preset.first_chunk not in (None, preset.chunk)
        or preset.schedule.step == "unipc"
    ):
        raise ValueError(
            f"preset {preset.name!r} cannot begin a chunk before the one before is clean: leave cascade out, or choose "
            "longlive, self-forcing or embedded"
        )
    passes = len([step for step in preset.schedule.denoising_step_list if step]) + 1
    if depth > passes:
        raise ValueError(
            f"cascade cannot be {depth}: a chunk has {passes} passes here, give 1 to {passes}, or more steps"
        )
    return replace(
        preset,
        schedule=replace(preset.schedule, plan="cascade"),
        cache=InFlight(cache.window, cache.sink, chunk=preset.chunk, depth=depth),
        window=Preceding(window.past_weight, cache.window, cache.sink),
        first_chunk=None,
    )
