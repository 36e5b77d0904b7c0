"""Anchor Forcing: which junction's anchor is seen when, where it stands, and that it is what the clean pass wrote."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cache.anchors import JunctionAnchors, junction
from cache.kv import KVStore
from cache.positions import Absolute, Regions
from cache.types import Pass, Row, Slot, SlotRange, Slots
from cache.windows import AllRemembered, SinkAnchorRecent
from pipelines.presets import PRESETS, Preset
from pipelines.presets.knobs import KnobError, apply_knobs
from pipelines.types import Controls, Transition
from tests import golden_anchor, golden_replay
from tests.golden_trace import Ledger, Trace
from tests.slot_trace import Scribe, shots, traced
from tests.tiny import FOX, film, gap, tiny_engine, tiny_stream, tiny_transformer

PRESET = PRESETS["anchor-forcing"]
QUICK = replace(PRESET, schedule=replace(PRESET.schedule, denoising_step_list=(1000,)))


def shown(scribe: Scribe) -> dict[int, list[int]]:
    """First frame of a chunk: the frames of the anchor that its passes see."""
    starts = sorted({sight.own.start for sight in scribe.of("denoise")})
    return {cur: scribe.chunk(cur).tagged("anchor") for cur in starts}


def frames(*starts: int) -> list[int]:
    return [frame for start in starts for frame in range(start, start + 3)]


# ------------------------------------------------------------------ positions

REGIONS = {
    0: ([0, 1, 2], [0, 1, 2]),
    3: ([3, 4, 5], [*range(6)]),
    9: ([9, 10, 11], [*range(12)]),
    12: ([12, 13, 14], [0, 1, 2, *range(6, 15)]),
    15: ([15, 16, 17], [0, 1, 2, *range(9, 18)]),
    18: ([18, 19, 20], [0, 1, 2, *range(12, 21)]),
    21: ([18, 19, 20], [0, 1, 2, *range(12, 21)]),
    60: ([18, 19, 20], [0, 1, 2, *range(12, 21)]),
}
"""First frame of a chunk: where its queries and keys stand while no anchor is seen."""


def test_the_film_walks_to_the_end_of_its_positions_and_stays_there() -> None:
    _, scribe = traced(QUICK, [FOX] * 21)
    for cur, (queries, keys) in REGIONS.items():
        sight = scribe.chunk(cur)
        assert (sight.queries, sight.keys) == (queries, keys)
        assert sight.frames == ([*range(cur + 3)] if cur < 12 else [0, 1, 2, *range(cur - 6, cur + 3)])


def test_an_anchor_stands_before_the_window_and_a_replay_sees_it_too() -> None:
    """The warm start: a re-cache is 9 frames that see the sink and the scene before's anchor."""
    _, scribe = traced(QUICK, shots(QUICK, (9, 36), 48))
    assert shown(scribe) == {cur: frames(9) if cur >= 21 else [] for cur in range(0, 48, 3)}
    sight = scribe.chunk(21)
    assert sight.frames == [0, 1, 2, 9, 10, 11, *range(15, 24)]
    assert (sight.queries, sight.keys) == ([18, 19, 20], [0, 1, 2, 6, 7, 8, *range(12, 21)])
    first, second = scribe.of("replay")
    assert (first.own, first.frames) == (range(9), [*range(9)])
    assert (first.queries, first.keys) == ([*range(9)], [*range(9)])
    assert (second.own, second.frames) == (range(27, 36), [0, 1, 2, 9, 10, 11, *range(27, 36)])
    assert (second.queries, second.keys) == ([*range(12, 21)], [0, 1, 2, 6, 7, 8, *range(12, 21)])


def test_positions_never_leave_the_horizon() -> None:
    _, scribe = traced(QUICK, shots(QUICK, range(9, 300, 30), 300))
    assert {place for sight in scribe.sights for place in (*sight.queries, *sight.keys)} == set(range(21))


# ------------------------------------------------------------------ which anchor


def test_over_four_switches_the_scene_befores_anchor_is_seen_until_the_new_one_has_left_the_window() -> None:
    stream, scribe = traced(QUICK, shots(QUICK, (9, 36, 42, 45), 63))
    expected = {cur: frames(9) if cur >= 21 else [] for cur in range(0, 63, 3)}
    # Scenes shorter than the window: both junctions in memory are inside it for a while, and no third is kept.
    expected |= {45: [], 48: [], 51: [], 54: frames(42), 57: frames(45), 60: frames(45)}
    assert shown(scribe) == expected
    assert [replay.tagged("anchor") for replay in scribe.of("replay")] == [[], frames(9), frames(9), []]
    anchors = [slot.frame for slot in stream.state.kv[0].entries if slot.tag == "anchor"]
    assert anchors == frames(42, 45), "the last two, older ones first"


def test_the_slots_are_sink_earlier_anchor_anchor_recent() -> None:
    stream, _ = traced(QUICK, shots(QUICK, (9, 30), 45))
    entries = stream.state.kv[0].entries
    assert [slot.tag for slot in entries] == ["sink"] * 3 + ["anchor"] * 6 + ["recent"] * 9
    assert [slot.frame for slot in entries] == [*frames(0, 9, 30), *range(36, 45)]


def test_a_switch_while_the_memory_is_young_keeps_the_anchor_of_the_one_before() -> None:
    """Replays of everything there is write over it and leave the anchors."""
    stream, scribe = traced(QUICK, shots(QUICK, (3, 6, 12), 27))
    assert [replay.own for replay in scribe.of("replay")] == [range(3), range(6), range(12)]
    entries = stream.state.kv[0].entries
    assert [slot.frame for slot in entries] == [*frames(0, 6, 12), *range(18, 27)]
    late = {18: frames(6), 21: frames(6), 24: frames(12)}
    assert shown(scribe) == {cur: late.get(cur, []) for cur in range(0, 27, 3)}


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_chunks_of_other_lengths_fill_an_anchor_as_they_come(chunk: int) -> None:
    preset = replace(QUICK, chunk=chunk)
    stream, scribe = traced(preset, shots(preset, (8, 32), 60))
    anchors = [slot.frame for slot in stream.state.kv[0].entries if slot.tag == "anchor"]
    assert anchors == [8, 9, 10, 32, 33, 34]
    assert all(scribe.chunk(cur).tagged("anchor") == [8, 9, 10] for cur in range(20, 41, chunk))
    assert scribe.chunk(44).tagged("anchor") == [32, 33, 34]


def test_a_sink_is_its_own_anchor_and_a_cut_begins_a_film() -> None:
    script = shots(QUICK, (9,), 24) + [Controls("elsewhere", Transition("cut"))] + [Controls("elsewhere")] * 9
    stream, scribe = traced(QUICK, script)
    assert scribe.chunk(24).frames == [24, 25, 26]
    assert (scribe.chunk(24).queries, scribe.chunk(27).keys) == ([0, 1, 2], [*range(6)])
    assert scribe.chunk(51).keys == [0, 1, 2, *range(12, 21)]
    assert not any(slot.tag == "anchor" for slot in stream.state.kv[0].entries)


def test_a_junction_is_the_last_switch_at_or_before_a_frame() -> None:
    assert [junction(frame, (4, 9)) for frame in (0, 3, 4, 8, 9, 100)] == [-1, -1, 4, 4, 9, 9]


def test_no_frame_is_seen_twice_and_an_anchor_never_less_than_whole() -> None:
    _, scribe = traced(QUICK, shots(QUICK, (6, 15, 18, 33, 36, 39, 60, 63, 90), 120))
    assert all(len(set(sight.frames)) == len(sight.frames) for sight in scribe.sights)
    seen = [sight.tagged("anchor") for sight in scribe.sights]
    assert {len(each) for each in seen} == {0, 3}
    assert len({tuple(each) for each in seen}) > 5


# ------------------------------------------------------------------ what an anchor is


def test_an_anchor_holds_the_clean_keys_of_its_frames_and_no_replay_changes_it() -> None:
    written: dict[int, list[Tensor]] = {}

    def note(work: Pass, row: Row, _x: Tensor, _flow: Tensor, _x0: Tensor | None, store: KVStore) -> None:
        if work.kind == "clean" and row.frames.start == 9:
            written.update({layer: [store._staged[0, layer].clone()] for layer in range(store.shape.layers)})

    engine = tiny_engine(
        tiny_transformer(num_layers=2),
        levels=(1000.0, 500.0),
        cache=PRESET.cache,
        view=PRESET.window,
        position=PRESET.position,
        switch=PRESET.switch,
    )
    stream = tiny_stream(engine, observer=note)
    film(stream, shots(PRESET, (9, 15), 18))
    store = stream.state.kv[0]
    anchor = [index for index, slot in enumerate(store.entries) if slot.tag == "anchor" and slot.frame < 12]
    again = [index for index, slot in enumerate(store.entries) if slot.tag == "recent" and slot.frame in range(9, 12)]
    assert len(anchor) == len(again) == 3, "remembered twice, and the one replayed"
    for layer, (staged,) in written.items():
        _, keys, _ = store.logical(layer)
        tokens = store.shape.tokens
        assert torch.equal(keys[:, anchor].flatten(1, 2), staged[:, : 3 * tokens])
    assert gap(keys[:, anchor], keys[:, again]) > 1e-2, "the replay does nothing"


def last(preset: Preset, script: list[Controls]) -> Tensor:
    stream, _ = traced(preset, script, model=tiny_transformer(num_layers=2))
    return stream.state.latents.get(range(stream.state.cur - 3, stream.state.cur))


def test_with_positions_as_they_are_and_no_anchor_it_is_longlive_bit_for_bit() -> None:
    """And each of the two differences is felt."""
    script = shots(PRESET, (9, 24), 42)
    longlive = last(PRESETS["longlive"], script)
    plain = replace(PRESET, cache=JunctionAnchors(12, 3, anchor=0), position=Absolute())
    assert plain.cache.capacity == 12
    assert torch.equal(last(plain, script), longlive)
    assert gap(last(replace(PRESET, position=Absolute()), script), longlive) > 1e-2
    assert gap(last(replace(plain, position=PRESET.position), script), longlive) > 1e-2


def test_an_anchor_is_felt_once_it_is_shown_and_not_before() -> None:
    bare = replace(QUICK, cache=JunctionAnchors(12, 3, anchor=0), position=Regions(21, 12, 0))
    before, after = shots(QUICK, (9,), 21), shots(QUICK, (9,), 24)
    assert torch.equal(last(QUICK, before), last(bare, before))
    assert gap(last(QUICK, after), last(bare, after)) > 1e-2


def test_a_film_goes_on_from_a_snapshot_with_its_anchors() -> None:
    script = shots(QUICK, (9, 24), 48)
    stream, _ = traced(QUICK, script[:9])
    again = stream.fork()
    assert film(stream, script[9:]) == film(again, script[9:])
    assert any(slot.tag == "anchor" for slot in again.state.kv[0].entries)


# ------------------------------------------------------------------ what is refused


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(ValueError, match=r"21 positions cannot hold .* make the window 18 or smaller"):
        Regions(horizon=21, window=19, anchor=3)
    with pytest.raises(ValueError, match=r"window of 3 .* sink of 3 .* make the window larger"):
        JunctionAnchors(window=3, sink=3)
    with pytest.raises(KnobError, match=r"make the window 18 or smaller") as refusal:
        apply_knobs(PRESET, {"local_attn_size": 24})
    assert refusal.value.knob == "local_attn_size"
    wider = apply_knobs(PRESET, {"local_attn_size": 15, "sink_size": 4})
    assert (wider.cache, wider.position) == (JunctionAnchors(15, 4), Regions(21, 15))
    assert wider.window == SinkAnchorRecent(15, 4)
    row = Row(0, range(6, 12), (0.0,) * 6, (None,) * 6, "none", "noisy", 1)
    full = Slots(0, 6, tuple(Slot(frame, "sink" if frame < 3 else "recent") for frame in range(6)))
    with pytest.raises(ValueError, match="shorter chunks or a larger window"):
        JunctionAnchors(window=8, sink=3).begin(row, full)


def test_a_window_that_knows_no_anchors_sees_them_all() -> None:
    slots = Slots(0, 30, (Slot(0, "sink"), Slot(9, "anchor"), Slot(20, "anchor"), Slot(29)), switches=(9, 20))
    row = Row(0, range(30, 31), (0.0,), (None,), "none", "noisy", 3)
    assert AllRemembered().select(row, slots) == [SlotRange(0, 4), SlotRange(4, 5)]
    assert SinkAnchorRecent(8, 1).select(row, slots) == [SlotRange(0, 1), SlotRange(2, 4), SlotRange(4, 5)]


# ------------------------------------------------------------------ recorded runs, where their licence lets them be

GOLDEN = Path(os.environ.get("RIVULET_GOLDEN") or golden_replay.HERE)
RECORDED = pytest.mark.skipif(not (GOLDEN / "anchor.json").is_file(), reason="RIVULET_GOLDEN has no trace anchor")


def faults(monkeypatch: pytest.MonkeyPatch, *, anchors: bool = False, window: bool = False) -> list[str]:
    """What the trace says against the preset's own policies in place of the released ones."""
    if anchors:
        monkeypatch.setattr(golden_anchor, "ReleasedAnchors", JunctionAnchors)
    if window:
        monkeypatch.setattr(golden_anchor, "ReleasedWindow", lambda size, sink, *_: SinkAnchorRecent(size, sink))
    trace = Trace.open(GOLDEN / "anchor.json")
    ledger = Ledger(trace)
    golden_anchor.replay(trace, ledger)
    return ledger.faults


@RECORDED
def test_with_one_switch_the_presets_own_policies_make_the_released_film(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that differs is what the release holds in its anchor until the clean pass, and in its prior."""
    wrong = faults(monkeypatch, anchors=True, window=True)
    assert wrong
    assert all(fault.startswith("pc.") or "rope_start_frame" in fault for fault in wrong)


@RECORDED
def test_a_changed_rule_fails_the_recorded_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults(monkeypatch) == []
    monkeypatch.setattr(golden_anchor, "HORIZON", 22)
    assert faults(monkeypatch)
