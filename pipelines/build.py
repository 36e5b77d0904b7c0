"""Where the parts meet: a preset's data and a model's networks become an engine, or are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache import FEATURE_CACHES
from cache.features.facts import Facts
from cache.layer_plan import EveryLayer
from cache.quantised import KV_STORAGES
from cache.room import short_of
from cache.storage import Dense, NewStorage
from cache.types import NoisePlan, TokenScorer
from pipelines.components import Components
from pipelines.conditioning import Conditioner
from pipelines.engine import Engine, Policies, Sigmas
from pipelines.feature_profile import PROFILE_FILE, FeatureProfile, read_profile
from pipelines.presets import Preset, Schedule
from pipelines.presets.plans import make_plan
from pipelines.streaming import Stream
from schedulers.buffer import MovingBuffer
from schedulers.flow_match import FlowMatchSchedule
from schedulers.serial import Serial
from schedulers.unipc import UniPCSchedule


def build_engine(preset: Preset, components: Components, *, untrained: bool = False) -> Engine:
    """Policies of a preset over the networks of a model.

    Args:
        preset: what to stream like.
        components: what to stream.
        untrained: allow a model whose card does not list the preset's plan.

    Raises:
        ValueError: the combination cannot work, or the model was not trained for it; the reason is in the text.
    """
    plans = components.card.get("plans")
    if plans is not None and preset.plan not in plans and not untrained:
        raise ValueError(
            f"model {components.name!r} was not trained for preset {preset.name!r} (plan {preset.plan!r}; it knows "
            f"{', '.join(plans)}): choose another, or pass --untrained to see what happens"
        )
    profile = profile_of(preset, components)
    device, dtype = components.transformer.expects
    return Engine(
        transformer=components.transformer,
        conditioner=Conditioner(components.text_encoder, device=device),
        policies=make_policies(preset, None if profile is None else profile.facts),
        corrections=None if profile is None else profile.corrections.to(device, dtype),
        autoencoder=components.autoencoder,
        fps=int(components.card.get("fps", 16)),
        drift_spreads=_spreads(components.card),
        storage=storage_of(preset),
    )


def profile_of(preset: Preset, components: Components) -> FeatureProfile | None:
    """The model's profile, if the preset's feature cache goes by one and there is one."""
    features = FEATURE_CACHES.get(preset.feature_cache)
    if features is None or not features.by_profile() or components.folder is None:
        return None
    return read_profile(components.folder / PROFILE_FILE, components.transformer)


def sources_of(preset: Preset, components: Components) -> tuple[Path, ...]:
    """The files that decide a film's pictures: the model's, and its profile where a feature cache goes by it."""
    profile = profile_of(preset, components)
    if profile is None or components.folder is None:
        return components.sources
    return (*components.sources, components.folder / PROFILE_FILE)


def storage_of(preset: Preset) -> NewStorage:
    """What holds a preset's keys and values."""
    return KV_STORAGES.get(preset.kv_cache_dtype, Dense)


def build_stream(
    preset: Preset,
    components: Components,
    *,
    height: int | None = None,
    width: int | None = None,
    seed: int = 0,
    untrained: bool = False,
    video: bool = False,
    make: Callable[..., Stream] = Stream,
) -> Stream:
    """A film about to begin.

    Args:
        preset: what to stream like.
        components: what to stream.
        height: of the picture in pixels; the model's own if None.
        width: of the picture in pixels; the model's own if None.
        seed: of all its noise.
        untrained: allow a preset, or a size, that the model's card does not list.
        video: it is made of a video (pipelines/video.py).
        make: makes the stream, of engine, height, width, seed and video; a plan for several ranks has one of its own.

    Raises:
        ValueError: as `build_engine`, or a size the model cannot make.
    """
    engine = build_engine(preset, components, untrained=untrained)
    sizes: list[tuple[int, int]] = [(int(h), int(w)) for h, w in components.card["sizes"]]
    height = sizes[0][0] if height is None else height
    width = sizes[0][1] if width is None else width
    if (height, width) not in sizes and not untrained:
        known = ", ".join(f"{w}x{h}" for h, w in sizes)
        raise ValueError(
            f"model {components.name!r} makes {known}, not {width}x{height}: choose one of these sizes, or pass "
            "--untrained to see what happens"
        )
    scale = components.autoencoder.spatial_scale
    if height % scale or width % scale or min(height, width) < scale:
        raise ValueError(f"a picture of {width}x{height} does not divide by {scale}: use multiples of {scale}")
    return make(engine, height=height // scale, width=width // scale, seed=seed, video=video)


def make_policies(preset: Preset, facts: Facts | None = None) -> Policies:
    """The preset's policies with its step list looked up; refuses pairs that cannot work together.

    Args:
        preset: what to stream like.
        facts: what is known of the model, for a feature cache that goes by its profile.
    """
    recipe = preset.schedule
    schedule, levels = make_schedule(recipe)
    plan = make_plan(preset, levels)
    check_pair(plan, preset)
    check_scope(plan, preset)
    features = FEATURE_CACHES.get(preset.feature_cache)
    if features is not None and not isinstance(plan, Serial):
        raise ValueError(
            f"preset {preset.name!r} has chunks at several noise levels in one pass, and a feature cache serves one: "
            "leave feature_cache out, or choose a preset with the plan serial"
        )
    return Policies(
        plan=plan,
        cache=preset.cache,
        window=preset.window,
        position=preset.position,
        switch=preset.switch,
        schedule=schedule,
        clean_level=recipe.clean_level,
        guidance_scale=recipe.guidance_scale,
        guidance=recipe.guidance,
        guidance_delta=recipe.guidance_delta,
        video=preset.video,
        layers=EveryLayer() if features is None else features.of(plan.levels, preset.chunk, facts),
        scope=preset.dual_scope,
    )


def make_schedule(recipe: Schedule) -> tuple[Sigmas, tuple[float, ...]]:
    """The table behind the levels, and the levels; ValueError for steps that the table does not have."""
    table = FlowMatchSchedule(shift=recipe.shift)
    listed = table.without_zero(recipe.denoising_step_list)
    if recipe.step != "unipc":
        return table, tuple(table.warp(listed) if recipe.warp else listed)
    even = [1000 * (len(listed) - index) / len(listed) for index in range(len(listed))]
    if any(abs(step - wanted) > 0.5 for step, wanted in zip(listed, even, strict=True)):
        raise ValueError(
            f"unipc spaces its steps evenly and cannot take {', '.join(f'{step:g}' for step in listed)}: "
            "give num_inference_steps instead of denoising_step_list, or the step euler"
        )
    solver = UniPCSchedule(steps=len(listed), shift=recipe.shift)
    return solver, solver.levels


def check_pair(plan: NoisePlan, preset: Preset) -> None:
    """Raise ValueError unless the memory gives what the plan's passes need, and a chunk fits (architecture F1)."""
    cache = preset.cache
    if cache.deps not in plan.needs:
        raise ValueError(
            f"preset {preset.name!r} pairs a noise plan that needs {' or '.join(sorted(plan.needs))} memory with a "
            f"cache policy that keeps {cache.deps} memory: a pass would read keys that do not exist yet; choose a "
            "cache policy of that kind"
        )
    lacks = short_of(cache.capacity, plan.chunk, cache.protected)
    if cache.capacity and lacks:
        raise ValueError(
            f"preset {preset.name!r} has a window of {cache.capacity} latent frames, too small for a sink of "
            f"{cache.protected} and a chunk of {plan.chunk}: make the window at least {cache.capacity + lacks}"
        )
    if isinstance(cache.scorer, TokenScorer) and cache.scorer.keep_q < plan.width:
        raise ValueError(
            f"preset {preset.name!r} judges its memory by the last {cache.scorer.keep_q} latent frames, fewer than the "
            f"{plan.width} of a pass: make them (recent) at least {plan.width}, or the chunk shorter"
        )
    if preset.switch.replays > cache.capacity:
        raise ValueError(
            f"preset {preset.name!r} replays {preset.switch.replays} latent frames on a new prompt, but its memory "
            f"holds {cache.capacity}: make the replay's window at most {cache.capacity}"
        )
    if preset.switch.replays and plan.lanes > 1:
        raise ValueError(
            f"preset {preset.name!r} has a memory for each of {plan.lanes} noise levels, and a replay writes clean "
            "keys only: choose the switch policy keep"
        )


def check_scope(plan: NoisePlan, preset: Preset) -> None:
    """Raise ValueError for a dual scope where no joint window is that it could narrow."""
    if preset.dual_scope is not None and not isinstance(plan, MovingBuffer):
        raise ValueError(
            f"preset {preset.name!r} has no joint window whose frames could see a part of it: leave dual_scope out, or "
            "choose rolling-forcing or streamdit"
        )


def _spreads(card: dict[str, Any]) -> tuple[float, ...] | None:
    spreads = card.get("drift_spreads")
    return None if spreads is None else tuple(float(value) for value in spreads)
