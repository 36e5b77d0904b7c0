"""LongLive's slots and positions in integers, and what LongLive 2 adds: shots that are pinned and set apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cache.positions import Absolute, ShotOffset
from cache.tagged_memory import MarkedWindow
from cache.types import Row, Slot, SlotRange, Slots
from pipelines.build import make_policies
from pipelines.components import _card
from pipelines.presets import PRESETS, Preset
from pipelines.types import Controls, Transition
from schedulers.serial import Serial
from schedulers.unipc import UniPCSchedule
from tests.slot_trace import shots, traced
from tests.tiny import FOX, WOLF, film, gap, tiny_transformer
from weights.find import get_model

LONGLIVE_2 = PRESETS["longlive-2"]


def quick(preset: Preset, steps: int = 1) -> Preset:
    """With fewer steps: slots do not depend on them."""
    listed = tuple(1000 * (steps - index) / steps for index in range(steps))
    return replace(preset, schedule=replace(preset.schedule, denoising_step_list=listed))


# ------------------------------------------------------------------ LongLive

SEEN = {
    0: [0, 1, 2],
    3: [*range(6)],
    6: [*range(9)],
    9: [*range(12)],
    12: [0, 1, 2, *range(6, 15)],
    15: [0, 1, 2, *range(9, 18)],
    18: [0, 1, 2, *range(12, 21)],
    21: [0, 1, 2, *range(15, 24)],
}
"""First frame of a chunk: the frames that its passes see, their own included."""


@pytest.mark.parametrize("name", ["longlive", "longlive-infinity"])
def test_longlive_sees_its_sink_and_the_last_frames(name: str) -> None:
    _, scribe = traced(quick(PRESETS[name]), [FOX] * 8)
    for cur, frames in SEEN.items():
        sight = scribe.chunk(cur)
        assert sight.frames == frames
        if name == "longlive":
            assert (sight.queries, sight.keys) == (list(range(cur, cur + 3)), frames)
        else:
            assert sight.keys == list(range(len(frames)))
            assert sight.queries == sight.keys[-3:]
    assert scribe.chunk(21).queries == ([21, 22, 23] if name == "longlive" else [9, 10, 11])


@pytest.mark.parametrize(("chunks", "replayed", "sink"), [(5, range(6, 15), [0, 1, 2]), (2, range(6), [])])
def test_longlive_replays_behind_its_sink_or_all_there_is(chunks: int, replayed: range, sink: list[int]) -> None:
    _, scribe = traced(quick(PRESETS["longlive"]), [FOX] * chunks + [WOLF])
    (replay,) = scribe.of("replay")
    assert replay.own == replayed
    assert replay.frames == [*sink, *replayed]
    assert (replay.queries, replay.keys) == (list(replayed), [*sink, *replayed])


# ------------------------------------------------------------------ LongLive 2

SHOTS = (40, 80)
LAYOUT = {
    0: [0],
    1: [0, 1],
    2: [0, 1, 2],
    3: [0, 1, 2, 3],
    4: [0, 2, 3, 4],
    5: [0, 3, 4, 5],  # a shot begins: its first chunk is pinned once it is clean
    6: [0, 4, 5, 6],
    7: [0, 5, 6, 7],
    8: [0, 5, 7, 8],
    9: [0, 5, 8, 9],
    10: [0, 5, 9, 10],  # another: until it is clean the old pin holds
    11: [0, 9, 10, 11],
    12: [0, 10, 11, 12],
    13: [0, 10, 12, 13],
    14: [0, 10, 13, 14],
}
"""Chunk: the chunks of 8 frames that its passes see."""


def test_the_slots_of_three_shots_are_global_sink_shot_recent_and_current() -> None:
    _, scribe = traced(quick(LONGLIVE_2), shots(LONGLIVE_2, SHOTS, 15 * 8))
    for chunk, seen in LAYOUT.items():
        sight = scribe.chunk(8 * chunk)
        assert sight.frames == [frame for each in seen for frame in range(8 * each, 8 * each + 8)]
    steady = scribe.chunk(8 * 14)
    assert steady.tags == ["sink"] * 8 + ["pin"] * 8 + ["recent"] * 8 + ["own"] * 8
    assert not scribe.of("replay"), "LongLive 2 does not re-cache"
    assert [sight.own.start for sight in scribe.of("clean")] == list(range(0, 120, 8))


def test_every_shot_stands_eight_frames_later_in_time() -> None:
    _, scribe = traced(quick(LONGLIVE_2), shots(LONGLIVE_2, SHOTS, 15 * 8))
    assert scribe.chunk(32).keys == scribe.chunk(32).frames
    for cur in range(0, 120, 8):
        sight = scribe.chunk(cur)
        late = [8 * sum(start <= frame for start in SHOTS) for frame in sight.frames]
        assert sight.keys == [frame + shift for frame, shift in zip(sight.frames, late, strict=True)]
        assert sight.queries == sight.keys[-8:]
    assert scribe.chunk(112).keys == [*range(8), *range(96, 104), *range(120, 136)]


def test_shot_positions_count_the_switches_at_or_before_a_frame() -> None:
    slots = Slots(0, 12, tuple(Slot(frame) for frame in (0, 9, 10, 11)), switches=(10, 12))
    row = Row(0, range(12, 14), (0.0,) * 2, (None,) * 2, "none", "noisy", 1)
    expected = ([28, 29], [0, 9, 18, 19, 28, 29])
    assert ShotOffset(offset=8).place(row, [SlotRange(0, 6)], slots) == expected
    assert ShotOffset(offset=8).place(row, [SlotRange(0, 6)], replace(slots, switches=())) == (
        [12, 13],
        [0, 9, 10, 11, 12, 13],
    )


def test_pin_and_offset_are_felt_in_the_film_and_only_after_a_switch() -> None:
    model = tiny_transformer(num_layers=2)
    script = shots(LONGLIVE_2, (24,), 9 * 8)
    preset = quick(LONGLIVE_2, steps=2)
    plain = replace(preset, cache=replace(MarkedWindow(32, 8, 8, 8), markers=0))
    films = {
        name: traced(each, script, model=model)[0].state.latents.get(range(64, 72))
        for name, each in {
            "preset": preset,
            "no pin": plain,
            "no offset": replace(preset, position=Absolute()),
        }.items()
    }
    assert gap(films["preset"], films["no pin"]) > 1e-2
    assert gap(films["preset"], films["no offset"]) > 1e-2
    one_shot = [
        traced(each, [FOX] * 6, model=model)[0].state.latents.get(range(40, 48))
        for each in (preset, plain, replace(preset, position=Absolute()))
    ]
    assert gap(one_shot[0], one_shot[1]) == gap(one_shot[0], one_shot[2]) == 0.0


def test_a_cut_begins_a_film_of_its_own() -> None:
    script = [FOX] * 5 + [Controls(WOLF.prompt, Transition("cut"))] + [WOLF] * 4
    stream, scribe = traced(quick(LONGLIVE_2), script)
    assert scribe.chunk(40).frames == list(range(40, 48))
    assert scribe.chunk(72).frames == [*range(40, 48), *range(56, 80)]
    assert [slot.tag for slot in stream.state.kv[0].entries[:8]] == ["sink"] * 8


def test_a_film_of_shots_goes_on_from_a_snapshot() -> None:
    preset, script = quick(LONGLIVE_2), shots(LONGLIVE_2, (24, 40), 9 * 8)
    stream, _ = traced(preset, script[:6])
    again = stream.fork()
    assert film(stream, script[6:]) == film(again, script[6:])


def test_the_preset_states_the_numbers_of_its_paper() -> None:
    policies = make_policies(LONGLIVE_2)
    assert policies.plan == Serial((999.0, 937.0, 833.0, 624.0), chunk=8, step="unipc")
    assert policies.schedule == UniPCSchedule(steps=4, shift=5.0)
    assert LONGLIVE_2.cache.capacity == 32
    with pytest.raises(ValueError, match=r"window of 20 latent frames.* make the window at least 24"):
        make_policies(replace(LONGLIVE_2, cache=MarkedWindow(20, 8, 8, 8)))


def test_its_model_makes_larger_pictures_at_another_frame_rate(tmp_path: object) -> None:
    spec = get_model(LONGLIVE_2.model)
    assert (spec.size, spec.fps) == ((704, 1280), 24)
    card = _card(spec, tmp_path)  # type: ignore[arg-type]
    assert (card["sizes"], card["fps"], card["plans"]) == ([[704, 1280]], 24, ["serial-clean"])
    assert spec.config["num_attention_heads"] * spec.config["attention_head_dim"] == 3072
    assert get_model("longlive-1.3b").fps == 16
