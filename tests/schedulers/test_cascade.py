"""A cascade: when chunks begin, what each pass sees of those before it, and that a depth of 1 changes no bit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import pytest

from cache.fifo import SinkWindow
from cache.in_flight import InFlight, Preceding
from cache.switches import Recache
from cache.types import Row, SlotRange, Slots, View
from pipelines.build import make_policies
from pipelines.engine import Engine
from pipelines.presets import PRESETS
from pipelines.presets.cascaded import cascaded, depth_of
from pipelines.presets.knobs import KnobError, apply_knobs, knob_values
from pipelines.types import Controls, Transition
from schedulers.cascade import Cascade, passes_left
from schedulers.serial import Serial
from tests.tiny import FOX, WOLF, film, tiny_engine, tiny_stream, tiny_transformer

LEVELS = (1000.0, 750.0, 500.0)
PASSES = len(LEVELS) + 1
DEPTHS = range(1, PASSES + 1)
SCRIPT = [FOX] * 6 + [WOLF] * 3 + [Controls("a green bird", Transition("cut"))] * 4


@dataclass(frozen=True, slots=True)
class Witness(Preceding):
    """Notes what each pass sees: its first frame, its level, and the frames and levels of the keys."""

    seen_by: list[tuple[int, float, list[tuple[int, float]]]] = field(default_factory=list[Any])

    def select(self, row: Row, slots: Slots) -> list[SlotRange]:
        entries = [slots.entries[index] for index in self.seen(row, slots)]
        self.seen_by.append((row.frames.start, row.levels[0], [(slot.frame, slot.level) for slot in entries]))
        return Preceding.select(self, row, slots)


def engine(depth: int | None, view: Any = None) -> Engine:
    """Chunks of 2, a window of 8 behind a sink of 2; without a depth one after the other."""
    plan = Serial(LEVELS, chunk=2) if depth is None else Cascade(LEVELS, chunk=2, depth=depth)
    cache = SinkWindow(8, 2) if depth is None else InFlight(8, 2, chunk=2, depth=depth)
    view = view or (None if depth is None else Preceding(1.0, 8, 2))
    switch = Recache(8, 2, keep_sink=False)
    return tiny_engine(tiny_transformer(num_layers=1), plan=plan, cache=cache, view=view, switch=switch)


def test_a_depth_of_one_is_one_chunk_after_the_other_bit_for_bit() -> None:
    once = film(tiny_stream(engine(None)), SCRIPT)
    assert film(tiny_stream(engine(1)), SCRIPT) == once
    deeper = film(tiny_stream(engine(2)), SCRIPT)
    same = [index for index, (one, other) in enumerate(zip(deeper, once, strict=True)) if one == other]
    assert same == [0, 9], "only what begins a scene has nothing before it"


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_pass_sees_what_the_chunks_before_left_a_tick_ago(depth: int) -> None:
    witness, chunks = Witness(1.0, 8, 2), 7
    film(tiny_stream(engine(depth, witness)), [FOX] * chunks)
    begins = [ceil(chunk * PASSES / depth) for chunk in range(chunks + depth)]
    stages = [*LEVELS, 0.0]
    for start, level, seen in witness.seen_by:
        chunk, stage = start // 2, stages.index(level)
        tick = begins[chunk] + stage
        before = [frame for frame in range(start) if frame < 2 or frame >= start - 4]  # sink, and 8 - 2 - 2 behind it
        had = [min(tick - begins[frame // 2], PASSES) for frame in before]  # passes until the tick before
        assert seen == [(frame, stages[count - 1]) for frame, count in zip(before, had, strict=True)]
    noisy = sum(any(level for _, level in seen) for _, _, seen in witness.seen_by)
    assert (noisy > 0) == (depth > 1)


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_chunk_has_all_its_passes_and_so_many_are_on_their_way(depth: int) -> None:
    plan, levels = Cascade(LEVELS, chunk=2, depth=depth), dict[int, list[float]]()
    flight, cur, busiest, kept = dict[int, float](), 0, 0, 0
    for _ in range(3 * depth):
        standing = tuple(flight[start] for start in sorted(flight) for _ in range(2))
        works = plan.passes(View(cur, 1, standing))
        for work in works:
            (row,) = work.rows
            levels.setdefault(row.frames.start, []).append(row.levels[0])
            flight[row.frames.start] = row.to[0] or 0.0
            busiest = max(busiest, len(flight))
            kept += bool(row.commit)
        assert works[-1].leave == range(cur, cur + 2)
        del flight[cur]
        cur += 2
    assert all(levels[start] == [*LEVELS, 0.0] for start in range(0, cur, 2))
    assert busiest == depth
    behind = sum(passes_left(PASSES, depth) for _ in range(3 * depth))
    assert behind <= kept <= behind + PASSES * depth  # and those of chunks that are still on their way


def test_a_cascade_that_cannot_be_is_refused_with_what_can() -> None:
    with pytest.raises(ValueError, match=r"4 passes.*give cascade 1 to 4"):
        Cascade(LEVELS, depth=5)
    with pytest.raises(ValueError, match="unipc"):
        Cascade(LEVELS, step="unipc")
    for name, knobs, reason in (
        ("rolling-forcing", {"cascade": 2}, "before the one before is clean"),
        ("streamdiffusion-v2", {"cascade": 2}, "before the one before is clean"),
        ("longlive", {"cascade": 6}, "give 1 to 5"),
        ("longlive", {"cascade": 2, "independent_first_frame": True}, "before the one before is clean"),
    ):
        with pytest.raises(KnobError, match=reason):
            apply_knobs(PRESETS[name], knobs)
    with pytest.raises(ValueError, match="feature_cache"):
        make_policies(replace(cascaded(PRESETS["longlive"], 2), feature_cache="clean-pass"))


@pytest.mark.parametrize("name", ["longlive", "self-forcing", "embedded"])
def test_a_preset_becomes_a_cascade_and_back_and_follows_its_other_knobs(name: str) -> None:
    preset = apply_knobs(PRESETS[name], {"cascade": 3})
    assert depth_of(preset) == knob_values(preset)["cascade"] == 3
    assert apply_knobs(preset, {"cascade": 1}) == PRESETS[name]
    other = apply_knobs(preset, {"num_frame_per_block": 1, "local_attn_size": 9, "sink_size": 2})
    assert (other.cache, other.window) == (InFlight(9, 2, chunk=1, depth=3), Preceding(1.0, 9, 2))
    assert other == apply_knobs(PRESETS[name], {**knob_values(other), "cascade": 3})
    plan = make_policies(other).plan
    assert isinstance(plan, Cascade)
    assert (plan.depth, plan.chunk) == (3, 1)
