"""The settings of a published system under the names its users know, applied to a preset.

Every repository of the field spells its schedule and memory with the same dozen names (`local_attn_size`,
`sink_size`, `denoising_step_list` ...); what each means in our policies, and what is impossible, is said here once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, cast

from cache import FEATURE_CACHES
from cache.dual_scope import DualScope
from cache.kv_shape import KV_BITS
from cache.room import short_of
from cache.switches import Keep, Recache
from cache.windows import AllRemembered
from pipelines.presets.base import GUIDANCES, Preset, Schedule
from pipelines.presets.cascaded import cascaded, depth_of
from schedulers.similarity import SimilarityFilter

LARGEST_WINDOW = 4096
LARGEST_CHUNK = 256
MOST_STEPS = 1000
"""Entries of the schedule's table: there are no more levels to step through."""
MOST_SHIFT = 100
MOST_GUIDANCE = 100

_FAR = 1e300  # past every range here


class KnobError(ValueError):
    """A setting that cannot be. `knob` is its name, so that a caller can say where it was given."""

    def __init__(self, knob: str, text: str) -> None:
        super().__init__(text)
        self.knob = knob


def apply_knobs(preset: Preset, knobs: Mapping[str, object]) -> Preset:
    """The preset with some settings changed.

    - `num_inference_steps`: so many steps, spread evenly (see `spaced_steps`); `denoising_step_list`: these steps.
      Both may be given if they agree.
    - `shift`, `guidance_scale`, `warp_denoising_step`: of the schedule. `context_noise`: the timestep (0..999) at
      which the pass that writes the memory runs.
    - `num_frame_per_block`: latent frames a chunk. `independent_first_frame`: the first chunk is one latent frame.
    - `local_attn_size`: latent frames a pass sees at most, its own and the sink included; a re-cache replays as many.
      `sink_size`: first frames that are never forgotten.
    - `kv_cache_attention_bias`: how much a past frame counts beside the pass's own, more than 0 and at most 1.
    - Of a video: `guidance_type`, what its passes are pushed away from (full, residual-self, residual-once);
      `similarity_filter`, the change below which a chunk may be left out (0 leaves out none); `anchored_noise`.
    - `feature_cache`: what of earlier passes is used again (`cache.FEATURE_CACHES`), or none.
    - `kv_cache_dtype`: bits of what is remembered (int8, int4), or auto for the model's precision.
    - `dual_scope`: what a frame of a joint window sees of it, neighbours and spread frames (4+2), or none for all.
    - `cascade`: chunks on their way at once, each begun on half-denoised keys of the one before; 1 for none.
    - `recache_on_switch`: replay the memory under a new prompt. `global_sink`: all of it but the sink.

    Args:
        preset: what to change; it stays as it is.
        knobs: names of KNOBS and their values: numbers, true or false, a sequence for `denoising_step_list`.

    Returns:
        The changed preset; `apply_knobs(preset, knob_values(preset))` is `preset` itself.

    Raises:
        KnobError: a ValueError of one sentence and one action: no such setting, one that this preset does not have,
            or a value that cannot be, alone or beside the others.
    """
    for name in knobs:
        if name not in KNOBS:
            near = get_close_matches(name, KNOBS, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise KnobError(name, f"a preset has no setting {_shown(name)}: choose from {', '.join(KNOBS)}{hint}")
    changed = _set_schedule(preset, knobs)
    changed = _set_chunks(changed, knobs)
    changed = _set_memory(changed, knobs)
    changed = _set_bias(changed, knobs)
    for name, choices, default in _NAMED:
        changed = _set_named(changed, name, choices, default, knobs)
    changed = _set_scope(changed, knobs)
    changed = _set_switch(changed, knobs)
    changed = _set_cascade(changed, knobs)
    changed = _set_video(changed, knobs)
    return preset if changed == preset else changed


def knob_values(preset: Preset) -> dict[str, Any]:
    """The value of every setting that the preset has, in plain types."""
    values = {name: read(preset) for name, read in KNOBS.items()}
    return {name: value for name, value in values.items() if value is not None}


def spaced_steps(schedule: Schedule, count: int) -> tuple[float, ...]:
    """`count` steps in place of those of `schedule`, spread evenly before the shift bends them.

    A sampler that follows the flow (`euler`, `unipc`) divides the way from pure noise to the picture into equal parts:
    step i of n stands at 1000 * (n - i) / n, as the 4 steps of the embedded preset do. A few-step student (`renoise`)
    was distilled at the levels it lists and is asked for none outside their range: its steps go evenly from the first
    to the last of them, and a single step is the first. Where steps are looked up in the shifted table (`warp`) they
    are rounded to its entries.
    """
    if schedule.step in ("euler", "unipc"):
        exact = [MOST_STEPS * (count - index) / count for index in range(count)]
    else:
        listed = _listed(schedule)
        exact = [listed[0] - (listed[0] - listed[-1]) * index / max(1, count - 1) for index in range(count)]
    return tuple(float(round(step)) for step in exact) if schedule.warp else tuple(exact)


def _set_schedule(preset: Preset, knobs: Mapping[str, object]) -> Preset:
    schedule = preset.schedule
    for name, field in (("warp_denoising_step", "warp"), ("shift", "shift"), ("guidance_scale", "guidance_scale")):
        if name in knobs:
            value = _truth(name, knobs[name]) if field == "warp" else _number(name, knobs[name])
            schedule = replace(schedule, **{field: value})
    if not 0 < schedule.shift <= MOST_SHIFT:
        raise KnobError(
            "shift", f"shift cannot be {schedule.shift:g}: give more than 0 and at most {MOST_SHIFT}, usually 3 to 8."
        )
    if not schedule.warp and "shift" in knobs and schedule.shift != preset.schedule.shift:
        raise KnobError("shift", "shift does nothing without warp_denoising_step: change denoising_step_list instead.")
    if not 0 <= schedule.guidance_scale <= MOST_GUIDANCE:
        raise KnobError(
            "guidance_scale",
            f"guidance_scale cannot be {schedule.guidance_scale:g}: give 0 to {MOST_GUIDANCE}, where 1 is no guidance.",
        )
    if "context_noise" in knobs:
        level = _number("context_noise", knobs["context_noise"])
        if not 0 <= level < 1000:
            raise KnobError("context_noise", f"context_noise cannot be {level:g}: give 0 (clean, the usual) to 999.")
        schedule = replace(schedule, clean_level=level)
    return replace(preset, schedule=_set_steps(schedule, knobs))


def _set_steps(schedule: Schedule, knobs: Mapping[str, object]) -> Schedule:
    name, other = "denoising_step_list", "num_inference_steps"
    count = _whole(other, knobs[other], 1, MOST_STEPS) if other in knobs else None
    if name in knobs:
        listed = _read_steps(knobs[name], whole=schedule.warp)
        if count not in (None, len(listed)):
            raise KnobError(other, f"{other} is {count}, but {name} has {len(listed)} steps: give one of the two.")
    elif count is not None and count != len(_listed(schedule)):
        listed = spaced_steps(schedule, count)
        if any(low >= high for high, low in pairwise(listed)):
            most = int(_listed(schedule)[0] - _listed(schedule)[-1]) + 1
            raise KnobError(
                other, f"there are no {count} different steps in this schedule: give {other} {most} or less."
            )
    else:
        return schedule
    return schedule if listed == _listed(schedule) else replace(schedule, denoising_step_list=listed)


def _read_steps(value: object, *, whole: bool) -> tuple[float, ...]:
    name, example = "denoising_step_list", "give falling timesteps such as 1000,750,500,250."
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise KnobError(name, f"{name} cannot be {_shown(value)}: {example}")
    listed = [_number(name, step) for step in cast("Sequence[object]", value)]
    if listed and listed[-1] == 0:  # names the end and is no step of its own; released configs write it
        listed.pop()
    if not 1 <= len(listed) <= MOST_STEPS:
        raise KnobError(name, f"{name} cannot have {len(listed)} steps: {example}")
    for step in listed:
        if not 0 < step <= 1000:
            raise KnobError(name, f"{name} holds {step:g}, which is not between 0 and 1000: {example}")
        if whole and step != int(step):
            raise KnobError(name, f"{name} holds {step:g}, which is not a whole number: {example}")
    for high, low in pairwise(listed):
        if high <= low:
            raise KnobError(name, f"{name} goes from {high:g} to {low:g}, but has to fall: {example}")
    return tuple(listed)


def _set_chunks(preset: Preset, knobs: Mapping[str, object]) -> Preset:
    if "num_frame_per_block" in knobs:
        preset = replace(preset, chunk=_whole("num_frame_per_block", knobs["num_frame_per_block"], 1, LARGEST_CHUNK))
    if "independent_first_frame" in knobs:
        single = _truth("independent_first_frame", knobs["independent_first_frame"])
        preset = replace(preset, first_chunk=1 if single else None)
    return preset


def _set_memory(preset: Preset, knobs: Mapping[str, object]) -> Preset:
    """Window and sink together: each alone may pass through a pair that its policy refuses."""
    given: dict[str, int] = {}
    for name, field, least in (("local_attn_size", "window", 1), ("sink_size", "sink", 0)):
        if name in knobs:
            if not _has(preset.cache, field):
                raise KnobError(name, f"preset {preset.name!r} has no {name}: leave it out, or choose another preset.")
            if field == "window" and knobs[name] == -1 and knobs[name] is not True:
                raise KnobError(
                    name, f"preset {preset.name!r} has no memory without a limit: give {name} up to {LARGEST_WINDOW}."
                )
            given[field] = _whole(name, knobs[name], least, LARGEST_WINDOW)
    if not given and not {"num_frame_per_block", "independent_first_frame"} & knobs.keys():
        return preset
    window, sink = given.get("window", _window(preset)), given.get("sink", _sink(preset))
    chunk = max(preset.chunk, preset.first_chunk or 0)
    beside = preset.cache.capacity - _window(preset)  # room that the window does not count
    others = preset.cache.protected - _sink(preset) - beside  # frames of other kinds that stay
    lacks = short_of(window, chunk, sink, others)
    if window and lacks:  # a memory of nothing is not asked for room
        order = ("sink_size", "num_frame_per_block", "local_attn_size", "independent_first_frame")
        raise KnobError(
            next(name for name in order if name in knobs),
            f"a window (local_attn_size) of {window} latent frames is too small for a sink (sink_size) of {sink}"
            f"{f', {others} more that stay' if others else ''} and a chunk (num_frame_per_block) of {chunk}: make the "
            f"window {window + lacks} or more.",
        )
    changes = {f: v for f, v in given.items() if v != {"window": _window(preset), "sink": _sink(preset)}[f]}
    policies = ("cache", "window", "position", "switch")
    try:
        return replace(preset, **{policy: _with(getattr(preset, policy), changes) for policy in policies})
    except ValueError as error:  # a policy's own limits
        raise KnobError("local_attn_size" if "window" in given else "sink_size", f"{error}.") from None


def _set_bias(preset: Preset, knobs: Mapping[str, object]) -> Preset:
    name = "kv_cache_attention_bias"
    if name not in knobs:
        return preset
    if not isinstance(preset.window, AllRemembered):
        raise KnobError(name, f"preset {preset.name!r} has no {name}: leave it out, or choose another preset.")
    weight = _number(name, knobs[name])
    if not 0 < weight <= 1:
        raise KnobError(name, f"{name} cannot be {weight:g}: give more than 0 and at most 1, where 1 changes nothing.")
    return replace(preset, window=replace(preset.window, past_weight=weight))


_NAMED = (("feature_cache", tuple(FEATURE_CACHES), "none"), ("kv_cache_dtype", tuple(KV_BITS), "auto"))
"""Knobs that are one of some names: what they may be, and how it is called that they are none of these."""


def _set_named(preset: Preset, name: str, choices: Sequence[str], default: str, knobs: Mapping[str, object]) -> Preset:
    if name not in knobs:
        return preset
    wanted, known = knobs[name], (default, *choices)
    if wanted not in known:
        raise KnobError(name, f"{name} cannot be {_shown(wanted)}: choose from {', '.join(known)}.")
    return replace(preset, **{name: "" if wanted == default else str(wanted)})


def _set_scope(preset: Preset, knobs: Mapping[str, object]) -> Preset:
    name = "dual_scope"
    if name not in knobs:
        return preset
    wanted = knobs[name]
    if wanted == "none":
        return replace(preset, dual_scope=None)
    if preset.schedule.plan != "moving-buffer":
        raise KnobError(
            name, f"preset {preset.name!r} has no joint window to narrow: leave {name} out, or choose rolling-forcing."
        )
    try:
        return replace(preset, dual_scope=DualScope.read(str(wanted)))
    except ValueError as error:
        raise KnobError(name, f"{name}: {error}, or none.") from None


def _set_switch(preset: Preset, knobs: Mapping[str, object]) -> Preset:
    if "recache_on_switch" in knobs:
        wanted = _truth("recache_on_switch", knobs["recache_on_switch"])
        if not _may_recache(preset):
            raise KnobError(
                "recache_on_switch",
                f"preset {preset.name!r} meets a new prompt in a way of its own: leave recache_on_switch out.",
            )
        if wanted != isinstance(preset.switch, Recache):
            sink = _sink(preset)
            again = Recache(window=_window(preset), sink=sink, keep_sink=sink > 0)
            preset = replace(preset, switch=again if wanted else Keep())
    if "global_sink" in knobs:
        keep = _truth("global_sink", knobs["global_sink"])
        if not isinstance(preset.switch, Recache):
            raise KnobError(
                "global_sink",
                f"{preset.name!r} does not re-cache and has no global_sink: add recache_on_switch or leave it out.",
            )
        if preset.switch.keep_sink != keep:
            preset = replace(preset, switch=replace(preset.switch, keep_sink=keep))
    return preset


def _set_cascade(preset: Preset, knobs: Mapping[str, object]) -> Preset:
    """Behind all others, because it follows the chunk, the window and the sink."""
    name = "cascade"
    depth = _whole(name, knobs[name], 1, MOST_STEPS + 1) if name in knobs else depth_of(preset)
    try:
        return cascaded(preset, depth)
    except ValueError as error:
        raise KnobError(name, f"{error}.") from None


def _set_video(preset: Preset, knobs: Mapping[str, object]) -> Preset:
    video, schedule = preset.video, preset.schedule
    if "guidance_type" in knobs:
        asked = knobs["guidance_type"]
        kind = next((kind for kind in GUIDANCES if kind == asked), None)
        if kind is None:
            raise KnobError("guidance_type", f"guidance_type cannot be {_shown(asked)}: give {', '.join(GUIDANCES)}.")
        schedule = replace(schedule, guidance=kind)
    if "similarity_filter" in knobs:
        limit = _number("similarity_filter", knobs["similarity_filter"])
        if not 0 <= limit <= 1:
            raise KnobError(
                "similarity_filter",
                f"similarity_filter cannot be {limit:g}: give 0 (every chunk is made) to 1, usually 0.02 to 0.06.",
            )
        if limit != similarity(preset):
            video = replace(
                video, similarity=replace(video.similarity or SimilarityFilter(), limit=limit) if limit else None
            )
    if "anchored_noise" in knobs:
        video = replace(video, anchored=_truth("anchored_noise", knobs["anchored_noise"]))
    return replace(preset, video=video, schedule=schedule)


def similarity(preset: Preset) -> float:
    """The change below which a chunk of a video may be left out; 0: none is."""
    return 0.0 if preset.video.similarity is None else preset.video.similarity.limit


def _listed(schedule: Schedule) -> tuple[float, ...]:
    """The steps without a final 0."""
    steps = schedule.denoising_step_list
    return steps[:-1] if steps and steps[-1] == 0 else steps


def _window(preset: Preset) -> int:
    return int(getattr(preset.cache, "window", preset.cache.capacity))


def _sink(preset: Preset) -> int:
    return int(getattr(preset.cache, "sink", 0))


def _may_recache(preset: Preset) -> bool:
    return isinstance(preset.switch, Keep | Recache) and preset.cache.capacity > 0


def _has(policy: object, field: str) -> bool:
    return is_dataclass(policy) and field in {known.name for known in fields(policy)}


def _with(policy: Any, changes: Mapping[str, int]) -> Any:
    """The policy with those of the changes that it has fields for."""
    known = {field: value for field, value in changes.items() if _has(policy, field)}
    return replace(policy, **known) if known else policy


def _number(name: str, value: object) -> float:
    # The comparison refuses NaN and infinity, and takes whole numbers that no float can hold.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise KnobError(name, f"{name} cannot be {_shown(value)}: give a finite number.")
    return float(min(max(value, -_FAR), _FAR))


def _whole(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise KnobError(name, f"{name} cannot be {_shown(value)}: give a whole number from {least} to {most}.")
    return value


def _truth(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise KnobError(name, f"{name} cannot be {_shown(value)}: give true or false.")
    return value


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else text[:38] + " …"


KNOBS: dict[str, Callable[[Preset], object]] = {
    "num_inference_steps": lambda preset: len(_listed(preset.schedule)),
    "denoising_step_list": lambda preset: list(_listed(preset.schedule)),
    "shift": lambda preset: preset.schedule.shift,
    "warp_denoising_step": lambda preset: preset.schedule.warp,
    "guidance_scale": lambda preset: preset.schedule.guidance_scale,
    "context_noise": lambda preset: preset.schedule.clean_level,
    "guidance_type": lambda preset: preset.schedule.guidance,
    "similarity_filter": similarity,
    "anchored_noise": lambda preset: preset.video.anchored,
    "local_attn_size": lambda preset: getattr(preset.cache, "window", None),
    "sink_size": lambda preset: getattr(preset.cache, "sink", None),
    "num_frame_per_block": lambda preset: preset.chunk,
    "independent_first_frame": lambda preset: preset.first_chunk == 1,
    "kv_cache_attention_bias": lambda preset: getattr(preset.window, "past_weight", None),
    "feature_cache": lambda preset: preset.feature_cache or None,
    "kv_cache_dtype": lambda preset: preset.kv_cache_dtype or None,
    "dual_scope": lambda preset: None if preset.dual_scope is None else preset.dual_scope.written,
    "cascade": lambda preset: depth_of(preset) if depth_of(preset) > 1 else None,
    "recache_on_switch": lambda preset: isinstance(preset.switch, Recache) if _may_recache(preset) else None,
    "global_sink": lambda preset: preset.switch.keep_sink if isinstance(preset.switch, Recache) else None,
}
"""Every setting by name, and how to read it from a preset (None: the preset has none)."""
