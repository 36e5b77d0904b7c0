"""The policies' contract, for every registration, in integers; and the store of keys that carries them out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields
from typing import get_args

import pytest

from cache import CACHE_POLICIES, POSITION_POLICIES, SWITCH_POLICIES, WINDOW_POLICIES
from cache.fifo import SinkWindow
from cache.positions import Absolute, SlotIndex
from cache.slots import Choose, Fold, Put, Reorder, SlotTable
from cache.switches import Recache
from cache.types import (
    NATIVE,
    Action,
    Average,
    Blend,
    CachePolicy,
    Deps,
    Drop,
    Evict,
    Move,
    Pin,
    Prune,
    Rebase,
    Replay,
    Row,
    Slot,
    SlotRange,
    Slots,
    TokenScorer,
    Write,
)
from cache.windows import SinkAndRecent

CHUNKS = 200


class Memory:
    """A slot table, which refuses what no store could carry out, and where the film stands."""

    def __init__(self) -> None:
        self.table = SlotTable(4096)
        self.cur = 0
        self.switches: tuple[int, ...] = ()

    @property
    def slots(self) -> list[Slot]:
        return [*self.table.entries]

    def view(self) -> Slots:
        return Slots(0, self.cur, self.table.entries, self.switches)

    def apply(self, action: Action) -> None:
        for each in fields(action):
            assert isinstance(getattr(action, each.name), int | float | range | str), f"{action} holds other things"
        assert not isinstance(action, Replay | Blend | Drop), f"a cache policy cannot ask for {action}"
        self.table.apply(action, [Slot(frame) for frame in action.frames] if isinstance(action, Write) else ())

    def frames(self) -> list[int]:
        """Those remembered whole; a mean, or tokens kept by content, stand for many."""
        return [slot.frame for slot in self.slots if slot.tag not in ("mean", "kept")]


def row_of(frames: range, *, level: float = 0.0, commit: bool = False) -> Row:
    count = len(frames)
    return Row(0, frames, (level,) * count, (None,) * count, "none", "noisy", 1, frames if commit else range(0))


def film(
    policy: CachePolicy, chunks: int = CHUNKS, seed: int = 0, switch_every: int = 0
) -> Iterator[tuple[Memory, Row]]:
    """Chunks of random length, two noisy passes and a clean one each; yields between `begin` and `end`.

    The prompt changes every so many chunks, or never.
    """
    lengths, memory = random.Random(seed), Memory()
    longest = policy.capacity - getattr(policy, "sink", 0) or 5  # a memory of nothing leaves room for any pass
    if isinstance(policy.scorer, TokenScorer):
        longest = min(longest, policy.scorer.keep_q)  # longer chunks are refused (pipelines/build.py)
    for chunk in range(chunks):
        if switch_every and chunk and chunk % switch_every == 0:
            memory.switches = (*memory.switches, memory.cur)
        frames = range(memory.cur, memory.cur + lengths.randint(1, min(longest, 5)))
        for level in (1000.0, 500.0, 0.0):
            row = row_of(frames, level=level, commit=level == 0.0)
            for action in policy.begin(row, memory.view()):
                memory.apply(action)
            yield memory, row
            for action in policy.end(row, memory.view()):
                memory.apply(action)
        memory.cur = frames.stop


@pytest.mark.parametrize("name", CACHE_POLICIES)
def test_a_cache_policy_never_holds_more_than_its_capacity(name: str) -> None:
    policy = CACHE_POLICIES[name]()
    assert policy.deps in get_args(Deps)
    fullest = 0
    for memory, row in film(policy, switch_every=7):
        own = row.frames if policy.capacity else ()  # a memory of nothing does not count the pass itself
        held = len(memory.slots) + len({*own} - {*memory.frames()})
        assert held <= policy.capacity, f"{held} frames in a memory of {policy.capacity}"
        fullest = max(fullest, held)
    assert fullest == policy.capacity, "it never used the room it has"


@pytest.mark.parametrize("name", CACHE_POLICIES)
def test_a_cache_policy_remembers_each_frame_once_and_keeps_its_sink(name: str) -> None:
    policy = CACHE_POLICIES[name]()
    sink = getattr(policy, "sink", 0)
    lost = 0
    for memory, _row in film(policy):
        frames = memory.frames()
        assert len(set(frames)) == len(frames)
        assert all(0 <= frame < memory.cur + 5 for frame in frames)
        if memory.cur >= policy.capacity:
            assert frames[:sink] == list(range(sink)), "the sink moved"
            assert [slot.tag for slot in memory.slots[:sink]] == ["sink"] * sink
            lost = memory.cur - len(frames)
    assert lost > policy.capacity, "nothing was ever forgotten, so nothing was tested"


@pytest.mark.parametrize("name", CACHE_POLICIES)
def test_a_cache_policy_makes_room_before_the_first_pass_only(name: str) -> None:
    policy = CACHE_POLICIES[name]()
    before: list[int] = []
    for memory, row in film(policy, 60):
        if row.levels[0] < 1000.0:
            assert memory.frames() == before, "a later pass of a chunk saw another memory"
        before = memory.frames()


def everything(slots: Slots, row: Row) -> list[int]:
    """The number of each frame, and one below zero for a slot that stands for many."""
    whole = [slot.tag not in ("mean", "kept") for slot in slots.entries]
    return [s.frame if whole[i] else -1 - i for i, s in enumerate(slots.entries)] + list(row.frames)


@pytest.mark.parametrize("name", WINDOW_POLICIES)
@pytest.mark.parametrize("cache", CACHE_POLICIES)
def test_a_window_stays_inside_the_memory_and_ends_with_the_pass_itself(name: str, cache: str) -> None:
    window = WINDOW_POLICIES[name]()
    for memory, row in film(CACHE_POLICIES[cache]()):
        slots = memory.view()
        ranges = window.select(row, slots)
        chosen = [index for r in ranges for index in range(r.start, r.stop)]
        assert all(isinstance(r.start, int) and isinstance(r.stop, int) and len(r) > 0 for r in ranges)
        assert chosen == sorted(set(chosen)), "a key was named twice or out of order"
        assert chosen[0] >= 0
        assert chosen[-len(row.frames) :] == list(range(len(slots.entries), len(slots.entries) + len(row.frames)))
        frames = [everything(slots, row)[index] for index in chosen]
        assert len(set(frames)) == len(frames), "a pass saw the old and the new copy of a frame"


@pytest.mark.parametrize("name", WINDOW_POLICIES)
def test_a_replay_does_not_see_the_copies_it_replaces(name: str) -> None:
    slots = Slots(0, 9, tuple(Slot(frame) for frame in range(9)))
    ranges = WINDOW_POLICIES[name]().select(row_of(range(3, 9)), slots)
    seen = [index for r in ranges for index in range(r.start, r.stop)]
    assert seen == [0, 1, 2, *range(9, 15)]


@pytest.mark.parametrize("name", POSITION_POLICIES)
@pytest.mark.parametrize("window", WINDOW_POLICIES)
def test_positions_are_one_integer_a_frame_and_a_pass_agrees_with_itself(name: str, window: str) -> None:
    position, view = POSITION_POLICIES[name](), WINDOW_POLICIES[window]()
    for memory, row in film(SinkWindow(window=9, sink=2)):
        slots = memory.view()
        ranges = view.select(row, slots)
        queries, keys = position.place(row, ranges, slots)
        assert len(queries) == len(row.frames)
        assert len(keys) == sum(len(r) for r in ranges)
        assert all(type(p) is int and (p >= 0 or p == NATIVE) for p in [*queries, *keys])
        # The pass rotates its own keys with the tables of its queries (models/attention.py).
        assert keys[len(keys) - len(queries) :] == queries


def test_absolute_positions_are_the_frames_numbers_and_slot_positions_have_no_gap() -> None:
    slots = Slots(0, 50, tuple(Slot(frame) for frame in (0, 1, 47, 48, 49)))
    row, ranges = row_of(range(50, 52)), [SlotRange(0, 2), SlotRange(3, 7)]
    assert Absolute().place(row, ranges, slots) == ([50, 51], [0, 1, 48, 49, 50, 51])
    assert SlotIndex().place(row, ranges, slots) == ([4, 5], [0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize("name", SWITCH_POLICIES)
@pytest.mark.parametrize("cache", CACHE_POLICIES)
@pytest.mark.parametrize("chunks", [0, 1, 2, 4, 40])
def test_a_switch_policy_asks_for_what_the_engine_can_do(name: str, cache: str, chunks: int) -> None:
    policy, store = SWITCH_POLICIES[name](), CACHE_POLICIES[cache]()
    memory = Memory()
    for state, _row in film(store, chunks):
        memory = state
    for action in policy.plan(memory.view(), 1, 2):
        if isinstance(action, Replay):
            assert chunks > 0
            assert action.frames.stop == memory.cur
            assert 0 < len(action.frames) <= store.capacity, "latents that old are not kept"
            row = row_of(action.frames, commit=True)
            for each in store.begin(row, memory.view()):
                memory.apply(each)
            for each in store.end(row, memory.view()):
                memory.apply(each)
            frames = memory.frames()
            again = [frame for frame in frames if frame in action.frames]
            assert again[-1] == memory.cur - 1
            assert len(again) == len(action.frames) or len(memory.slots) >= store.capacity - store.protected, (
                "a replayed frame that had room was not remembered"
            )
            assert frames == sorted(frames), "attention order is film order"
        elif not isinstance(action, Blend | Drop):
            memory.apply(action)
    assert len(memory.slots) <= store.capacity


def test_recache_with_a_protected_sink_replays_what_stands_behind_it() -> None:
    policy = Recache(window=9, sink=3)
    assert policy.plan(Slots(0, 0, ()), 1, 2) == []
    young = Slots(0, 9, tuple(Slot(frame) for frame in range(9)))
    assert policy.plan(young, 1, 2) == [Replay(range(9))], "in place"
    old = Slots(0, 30, tuple(Slot(frame) for frame in (0, 1, 2, *range(24, 30))))
    assert policy.plan(old, 1, 2) == [Replay(range(24, 30))]
    assert Recache(9, 3, keep_sink=False).plan(old, 1, 2) == [Evict(range(9)), Replay(range(21, 30))]


def test_a_window_that_cannot_hold_its_sink_is_refused() -> None:
    with pytest.raises(ValueError, match=r"window of 3 .* sink of 3"):
        SinkWindow(window=3, sink=3)
    memory = Slots(0, 3, tuple(Slot(frame) for frame in range(3)))
    with pytest.raises(ValueError, match="shorter chunks or a larger window"):
        SinkWindow(window=5, sink=3).begin(row_of(range(3, 6)), memory)


def test_sink_and_recent_is_narrower_than_the_memory() -> None:
    slots = Slots(0, 12, tuple(Slot(frame) for frame in range(12)))
    ranges = SinkAndRecent(window=7, sink=2).select(row_of(range(12, 15)), slots)
    assert ranges == [SlotRange(0, 2), SlotRange(10, 12), SlotRange(12, 15)]


# ------------------------------------------------------------------ the slot table


def filled(*frames: int, capacity: int = 6) -> SlotTable:
    table = SlotTable(capacity)
    table.apply(Write(range(len(frames)), range(len(frames))), [Slot(index) for index in range(len(frames))])
    table.entries = tuple(Slot(frame) for frame in frames)
    return table


def frames_of(table: SlotTable) -> list[int]:
    return [slot.frame for slot in table.entries]


def test_actions_say_in_integers_what_happens_at_which_place() -> None:
    table = filled(0, 1, 2, 3)
    assert table.places == [0, 1, 2, 3]
    assert table.apply(Evict(range(1, 3))) == [Reorder()]
    assert (frames_of(table), table.places, table.free) == ([0, 3], [0, 3], [4, 5, 1, 2])
    staged = [Slot(7, prompt=2, level=5.0), Slot(8)]
    assert table.apply(Write(range(8, 9), range(2, 3), "pin"), staged) == [Put(8, 1, 4)]
    assert table.apply(Write(range(7, 8), range(1, 2)), staged) == [Put(7, 0, 3)], "over what stood there"
    assert table.entries == (Slot(0), Slot(7, "recent", 2, 5.0), Slot(8, "pin"))
    assert table.apply(Move(2, 0)) == [Reorder()]
    assert (frames_of(table), table.places) == ([8, 0, 7], [4, 0, 3])
    assert table.apply(Pin(range(1, 2), "sink")) == table.apply(Rebase(range(1, 3), 9)) == []
    assert table.entries[1:] == (Slot(0, "sink", base=9), Slot(7, "recent", 2, 5.0, 9))
    began = table.apply(Average(range(2), 3, 0.1))
    assert began == [Fold(4, 5, 1.0, begins=True), Fold(0, 5, 0.1)]
    assert table.entries[3] == Slot(0, "mean")
    assert table.apply(Average(range(2, 3), 3, 0.1)) == [Fold(3, 5, 0.1)]
    assert table.entries[3].frame == 7
    table.apply(Evict(range(3, 4)))
    assert table.apply(Prune(range(3), 2)) == [Choose((4, 0, 3), (4, 0)), Reorder()]
    assert table.entries == (Slot(NATIVE, "kept"), Slot(NATIVE, "kept"))
    assert sorted([*table.places, *table.free]) == [*range(6)]
    table.reset()
    assert (table.entries, table.places, table.free) == ((), [], [*range(6)])


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (Evict(range(1, 4)), "slots that are not there: 3 are taken"),
        (Evict(range(-1, 1)), "not there"),
        (Move(0, 3), "not there"),
        (Move(3, 0), "not there"),
        (Pin(range(3, 4), "pin"), "not there"),
        (Rebase(range(2, 5), 1), "not there"),
        (Average(range(2, 4), 0, 0.1), "not there"),
        (Average(range(1), 4, 0.1), "beyond the end"),
        (Average(range(0), 3, 0.1), "averages nothing"),
        (Prune(range(2, 4), 1), "not there"),
        (Prune(range(3), 3), "keeps 3 of 3"),
        (Write(range(9, 10), range(4, 5)), "written in order"),
        (Write(range(5, 6), range(3, 4)), r"frame 5 cannot be remembered: the last pass held \[9\]"),
        (Write(range(9, 10), range(-1, 0)), "written in order"),
        (Replay(range(1)), "the engine loop has to"),
    ],
)
def test_what_no_memory_can_do_is_refused_and_changes_nothing(action: Action, words: str) -> None:
    table = filled(0, 1, 2)
    with pytest.raises(ValueError, match=words):
        table.apply(action, [Slot(9)])
    assert (frames_of(table), table.places, table.free) == ([0, 1, 2], [0, 1, 2], [3, 4, 5])


def test_a_full_table_takes_no_further_frame() -> None:
    table = filled(0, 1, capacity=3)
    with pytest.raises(ValueError, match="must evict before it writes"):
        table.apply(Write(range(8, 10), range(2, 4)), [Slot(8), Slot(9)])
    assert (frames_of(table), table.free) == ([0, 1], [2]), "not even the first of them"
