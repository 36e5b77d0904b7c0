"""Knobs under the field's names: each moves the policy it names in every preset, and what cannot be is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cache.fifo import SinkWindow
from cache.switches import Keep, Recache
from cache.types import Action, Row, Slots
from cache.windows import AllRemembered, SinkAndRecent
from pipelines.presets import PRESETS, Preset
from pipelines.presets.knobs import KNOBS, KnobError, apply_knobs, knob_values, spaced_steps

ANOTHER: dict[str, Any] = {
    "num_inference_steps": 6,
    "denoising_step_list": [1000, 600, 300],
    "shift": 4.0,
    "warp_denoising_step": False,
    "guidance_scale": 1.75,
    "context_noise": 20,
    "sink_size": 4,
    "num_frame_per_block": 2,
    "independent_first_frame": True,
    "kv_cache_attention_bias": 0.3,
    "guidance_type": "residual-self",
    "similarity_filter": 0.06,
}
"""A value that few presets have."""

MEMORY = {"local_attn_size", "sink_size", "recache_on_switch", "global_sink"}
"""What a preset that remembers nothing lacks."""

MOVES = {
    "num_inference_steps": lambda p: p.schedule.denoising_step_list,
    "denoising_step_list": lambda p: p.schedule.denoising_step_list,
    "shift": lambda p: p.schedule.shift,
    "warp_denoising_step": lambda p: p.schedule.warp,
    "guidance_scale": lambda p: p.schedule.guidance_scale,
    "context_noise": lambda p: p.schedule.clean_level,
    "local_attn_size": lambda p: p.cache.window,
    "sink_size": lambda p: p.cache.sink,
    "num_frame_per_block": lambda p: p.chunk,
    "independent_first_frame": lambda p: p.first_chunk,
    "kv_cache_attention_bias": lambda p: p.window.past_weight,
    "guidance_type": lambda p: p.schedule.guidance,
    "similarity_filter": lambda p: p.video.similarity,
    "anchored_noise": lambda p: p.video.anchored,
    "recache_on_switch": lambda p: type(p.switch),
    "global_sink": lambda p: p.switch.keep_sink,
}
"""Where each knob has to arrive, read from the policies themselves."""


def another(preset: Preset, knob: str) -> Any:
    """A value of the knob that differs from the preset's."""
    now = knob_values(preset)[knob]
    if isinstance(now, bool):
        return not now
    if knob == "local_attn_size":
        return now + 3  # no length is long enough for one preset's chunks and within another's positions
    return 1 if now == ANOTHER[knob] else ANOTHER[knob]  # the chunks of some presets are of 2 frames


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_values_of_a_preset_give_the_preset_back(preset: Preset) -> None:
    values = knob_values(preset)
    without = {
        "feature_cache",
        "kv_cache_dtype",
        "dual_scope",
        "cascade",
        *({"global_sink"} if preset.cache.capacity else MEMORY),
    }  # no preset has one
    without = without if isinstance(preset.window, AllRemembered) else {*without, "kv_cache_attention_bias"}
    assert values.keys() >= KNOBS.keys() - without
    assert apply_knobs(preset, values) is preset
    assert apply_knobs(preset, {}) is preset


@pytest.mark.parametrize("knob", KNOBS)
@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_knob_moves_what_it_names_and_nothing_of_the_other_knobs(preset: Preset, knob: str) -> None:
    if knob not in knob_values(preset) or (knob == "shift" and not preset.schedule.warp):
        with pytest.raises(KnobError, match=knob) as refusal:
            apply_knobs(preset, {knob: 2.5 if knob == "shift" else True})
        assert refusal.value.knob == knob
        return
    value = another(preset, knob)
    changed = apply_knobs(preset, {knob: value})
    assert MOVES[knob](changed) != MOVES[knob](preset)
    before, after = knob_values(preset), knob_values(changed)
    assert after[knob] == (pytest.approx(value) if knob != "denoising_step_list" else value)
    follows = {
        "num_inference_steps": {"denoising_step_list"},
        "denoising_step_list": {"num_inference_steps"},
        "recache_on_switch": {"global_sink"},
    }.get(knob, set())
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} - follows == {knob}
    assert preset == PRESETS[preset.name], "the preset itself stays as it is"


@pytest.mark.parametrize(
    "preset", [preset for preset in PRESETS.values() if preset.cache.capacity], ids=lambda preset: preset.name
)
def test_the_replay_follows_the_memory_so_that_no_pass_outgrows_it(preset: Preset) -> None:
    beside = preset.cache.capacity - knob_values(preset)["local_attn_size"]  # anchors take no room of the window
    window = 20 if preset.chunk > 3 else 9
    changed = apply_knobs(preset, {"local_attn_size": window, "sink_size": 2, "recache_on_switch": True})
    assert changed.cache.capacity == window + beside
    assert isinstance(changed.switch, Recache)
    assert (changed.switch.window, changed.switch.sink) == (window, 2)
    assert apply_knobs(changed, {"recache_on_switch": False}).switch == Keep()


def test_a_narrower_view_of_the_memory_is_moved_with_it() -> None:
    preset = replace(PRESETS["longlive"], window=SinkAndRecent(window=12, sink=3))
    changed = apply_knobs(preset, {"local_attn_size": 21, "sink_size": 0})
    assert changed.window == SinkAndRecent(window=21, sink=0)


# ------------------------------------------------------------------ steps


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_as_many_steps_as_a_preset_has_are_its_own_steps(preset: Preset) -> None:
    own = preset.schedule.denoising_step_list
    if len({high - low for high, low in pairwise(own)}) == 1:  # others are uneven on purpose
        assert spaced_steps(preset.schedule, len(own)) == own
    assert apply_knobs(preset, {"num_inference_steps": len(own)}) is preset


@given(count=st.integers(1, 400), name=st.sampled_from(sorted(PRESETS)))
@settings(max_examples=25, deadline=None)
def test_steps_fall_evenly_from_pure_noise_and_stay_above_zero(count: int, name: str) -> None:
    preset = PRESETS[name]
    assume(count != len(preset.schedule.denoising_step_list))  # its own steps, even or not
    steps = apply_knobs(preset, {"num_inference_steps": count}).schedule.denoising_step_list
    assert len(steps) == count
    assert steps[0] == 1000
    assert all(0 < step <= 1000 for step in steps)
    assert all(step == int(step) for step in steps) or not preset.schedule.warp
    gaps = [high - low for high, low in pairwise(steps)]
    assert all(gap > 0 for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= 1, "rounding moves a step by less than one"


def test_a_sampler_goes_down_to_a_last_equal_part_and_a_student_stays_in_its_range() -> None:
    assert spaced_steps(PRESETS["embedded"].schedule, 2) == (1000, 500)
    assert spaced_steps(PRESETS["longlive"].schedule, 2) == (1000, 250)
    assert spaced_steps(PRESETS["longlive"].schedule, 3) == (1000, 625, 250)
    assert spaced_steps(PRESETS["self-forcing"].schedule, 1) == (1000,)
    exact = replace(PRESETS["embedded"].schedule, warp=False)
    assert spaced_steps(exact, 3)[1] == pytest.approx(2000 / 3)


def test_a_final_zero_of_a_released_list_is_no_step() -> None:
    changed = apply_knobs(PRESETS["longlive"], {"denoising_step_list": (1000, 500, 0), "num_inference_steps": 2})
    assert changed.schedule.denoising_step_list == (1000, 500)


def test_a_preset_whose_own_list_ends_in_zero_says_its_steps_without_it() -> None:
    longlive = PRESETS["longlive"]
    released = replace(longlive, schedule=replace(longlive.schedule, denoising_step_list=(1000.0, 500.0, 0.0)))
    values = knob_values(released)
    assert (values["num_inference_steps"], values["denoising_step_list"]) == (2, [1000, 500])
    assert apply_knobs(released, {"num_inference_steps": 2}) is released
    assert apply_knobs(released, {"denoising_step_list": [1000, 500]}) is released


def test_a_replay_keeps_the_sink_of_a_memory_that_has_one() -> None:
    keeps = replace(PRESETS["longlive"], switch=Keep())
    for sink in (0, 3):
        changed = apply_knobs(keeps, {"sink_size": sink, "recache_on_switch": True})
        assert isinstance(changed.switch, Recache)
        assert (changed.switch.window, changed.switch.sink) == (12, sink)
        assert changed.switch.keep_sink == (sink > 0)


# ------------------------------------------------------------------ what is refused

REFUSED: dict[str, tuple[str, dict[str, object], str, str]] = {
    "unknown": ("longlive", {"snk_size": 3}, "snk_size", "did you mean sink_size?"),
    "no steps": ("longlive", {"num_inference_steps": 0}, "num_inference_steps", "from 1 to 1000"),
    "too many steps": ("embedded", {"num_inference_steps": 1001}, "num_inference_steps", "from 1 to 1000"),
    "more steps than levels": ("longlive", {"num_inference_steps": 900}, "num_inference_steps", "751 or less"),
    "half a step": ("longlive", {"num_inference_steps": 1.5}, "num_inference_steps", "whole number"),
    "true steps": ("longlive", {"num_inference_steps": True}, "num_inference_steps", "whole number"),
    "steps that disagree": (
        "longlive",
        {"num_inference_steps": 3, "denoising_step_list": [1000, 500]},
        "num_inference_steps",
        "give one of the two",
    ),
    "empty list": ("longlive", {"denoising_step_list": []}, "denoising_step_list", "0 steps"),
    "only zero": ("longlive", {"denoising_step_list": [0]}, "denoising_step_list", "0 steps"),
    "rising list": ("longlive", {"denoising_step_list": [500, 1000]}, "denoising_step_list", "has to fall"),
    "repeated step": ("longlive", {"denoising_step_list": [1000, 500, 500]}, "denoising_step_list", "has to fall"),
    "step past the table": ("longlive", {"denoising_step_list": [1001]}, "denoising_step_list", "between 0 and 1000"),
    "fraction of a step": ("longlive", {"denoising_step_list": [999.5]}, "denoising_step_list", "whole number"),
    "text for a list": ("longlive", {"denoising_step_list": "1000"}, "denoising_step_list", "1000,750,500,250"),
    "NaN in the list": ("longlive", {"denoising_step_list": [math.nan]}, "denoising_step_list", "finite"),
    "no shift": ("longlive", {"shift": 0}, "shift", "more than 0"),
    "infinite shift": ("longlive", {"shift": math.inf}, "shift", "finite"),
    "shift without a table": ("longlive", {"shift": 3, "warp_denoising_step": False}, "shift", "does nothing"),
    "negative guidance": ("embedded", {"guidance_scale": -1}, "guidance_scale", "0 to 100"),
    "NaN guidance": ("embedded", {"guidance_scale": math.nan}, "guidance_scale", "finite"),
    "huge guidance": ("embedded", {"guidance_scale": 10**400}, "guidance_scale", "0 to 100"),
    "pure noise for memory": ("embedded", {"context_noise": 1000}, "context_noise", "to 999"),
    "no window": ("longlive", {"local_attn_size": 0}, "local_attn_size", "from 1 to 4096"),
    "window without end": ("longlive", {"local_attn_size": -1}, "local_attn_size", "without a limit"),
    "window below the sink": ("longlive", {"local_attn_size": 2}, "local_attn_size", "make the window 6 or more"),
    "sink past the window": ("longlive", {"sink_size": 12}, "sink_size", "make the window 15 or more"),
    "sink and chunk": ("longlive", {"sink_size": 10}, "sink_size", "make the window 13 or more"),
    "negative sink": ("longlive", {"sink_size": -1}, "sink_size", "from 0"),
    "no chunk": ("longlive", {"num_frame_per_block": 0}, "num_frame_per_block", "from 1"),
    "chunk past the window": ("longlive", {"num_frame_per_block": 10}, "num_frame_per_block", "window 13 or more"),
    "maybe": ("longlive", {"recache_on_switch": "maybe"}, "recache_on_switch", "true or false"),
    "sink of no re-cache": ("self-forcing", {"global_sink": True}, "global_sink", "does not re-cache"),
    "no past": ("longlive", {"kv_cache_attention_bias": 0}, "kv_cache_attention_bias", "more than 0"),
    "sink beside means": ("mem-rope", {"sink_size": 8}, "sink_size", "2 more that stay"),
    "one": ("longlive", {"global_sink": 1}, "global_sink", "true or false"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_its_name_and_what_to_give(case: str) -> None:
    name, knobs, knob, said = REFUSED[case]
    with pytest.raises(ValueError, match=knob) as refusal:
        apply_knobs(PRESETS[name], knobs)
    assert isinstance(refusal.value, KnobError)
    assert refusal.value.knob == knob
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_window_and_sink_may_pass_each_other_when_given_together() -> None:
    small = apply_knobs(PRESETS["longlive"], {"local_attn_size": 4, "sink_size": 1})
    assert small.cache == SinkWindow(window=4, sink=1)
    assert apply_knobs(small, {"sink_size": 12, "local_attn_size": 21}).cache == SinkWindow(window=21, sink=12)


class NoKnobs:
    """A memory and a switch of another kind."""

    capacity = 12
    deps = "clean"

    def begin(self, row: Row, slots: Slots) -> list[Action]:
        return []

    end = begin

    def plan(self, slots: Slots, old: int, new: int) -> list[Action]:
        return []


def test_a_knob_that_a_preset_does_not_have_is_refused_and_not_listed() -> None:
    strange = replace(PRESETS["longlive"], cache=NoKnobs(), switch=NoKnobs())  # type: ignore[arg-type]
    missing = {"local_attn_size": 9, "sink_size": 1, "recache_on_switch": True, "global_sink": True}
    assert KNOBS.keys() - knob_values(strange).keys() == {*missing, "feature_cache", "kv_cache_dtype", "dual_scope", "cascade"}
    for knob, value in missing.items():
        with pytest.raises(KnobError, match="leave") as refusal:
            apply_knobs(strange, {knob: value})
        assert refusal.value.knob == knob
