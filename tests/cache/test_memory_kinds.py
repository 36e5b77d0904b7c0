"""Memories that treat frames by kind, and what they are made of: markers, running means, weights of the past.

The oracles know no policy: sets of frame numbers, sums in numpy, a softmax by hand, a list for the store.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.buffers import Buffers
from cache.fifo import SinkWindow
from cache.kv import KVStore
from cache.kv_shape import KVShape
from cache.positions import SlotIndex
from cache.rope import rotary_tables, rotate
from cache.switches import Recache
from cache.tagged_memory import AveragedMemory, MarkedWindow
from cache.types import (
    Action,
    Average,
    CachePolicy,
    Evict,
    Move,
    Pass,
    Pin,
    Rebase,
    Row,
    Slot,
    SlotRange,
    Slots,
    Tag,
    Write,
)
from cache.windows import AllRemembered
from models.attention import CausalAttnProcessor, SelfContext
from pipelines.build import make_policies
from pipelines.presets import PRESETS
from pipelines.snapshots import load_snapshot, save_snapshot
from pipelines.tree import copied, put_back
from pipelines.types import Controls, Transition
from tests.cache.test_cache import Memory, row_of
from tests.tiny import FOX, WOLF, film, gap, tiny_engine, tiny_stream, tiny_transformer

MEM_ROPE, STREAMING_VLM = PRESETS["mem-rope"], PRESETS["streaming-vlm"]


def step(policy: CachePolicy, memory: Memory, frames: range, switches: tuple[int, ...] = ()) -> list[Slot]:
    """A noisy and a clean pass of `frames`; what the passes saw of the past."""
    for commit in (False, True):
        row = row_of(frames, commit=commit)
        for action in policy.begin(row, replace(memory.view(), switches=switches)):
            memory.apply(action)
        seen = list(memory.slots)
        for action in policy.end(row, replace(memory.view(), switches=switches)):
            memory.apply(action)
    memory.cur = max(memory.cur, frames.stop)
    return seen


# ------------------------------------------------------------------ contiguous positions


def test_positions_of_an_endless_film_stay_within_the_window() -> None:
    """StreamingLLM's: places in the cache, however many frames have passed."""
    policy, memory, position = SinkWindow(window=12, sink=4), Memory(), SlotIndex()
    for chunk in range(5000):
        frames = range(4 * chunk, 4 * chunk + 4)
        seen = step(policy, memory, frames)
        slots = Slots(0, frames.start, tuple(seen))
        queries, keys = position.place(row_of(frames), AllRemembered().select(row_of(frames), slots), slots)
        if chunk > 2:
            assert [slot.frame for slot in seen] == [0, 1, 2, 3, *range(frames.start - 4, frames.start)]
            assert (queries, keys) == ([8, 9, 10, 11], list(range(12)))
        else:
            assert keys == list(range(len(seen) + 4))
            assert queries == keys[-4:]


# ------------------------------------------------------------------ markers


def expected_by_kind(cur: int, own: int, switches: Sequence[int], policy: MarkedWindow) -> list[int]:
    """Sink, the last markers, and the newest other frames in the room that is left."""
    sink = range(min(policy.sink, cur))
    marks = [
        frame for switch in switches for frame in range(switch, switch + policy.mark) if policy.sink <= frame < cur
    ]
    stay = {*sink, *(marks[-policy.markers :] if policy.markers else ())}
    room = max(0, policy.window - own - len(stay))
    others = [frame for frame in range(cur) if frame not in stay]
    return sorted(stay | {*(others[-room:] if room else ())})


@pytest.mark.parametrize(("markers", "mark", "window"), [(3, 1, 12), (6, 3, 15), (2, 2, 12), (0, 1, 12)])
def test_markers_outlive_the_frames_around_them(markers: int, mark: int, window: int) -> None:
    policy, memory, chance = MarkedWindow(window, 3, markers, mark), Memory(), random.Random(markers)
    switches: tuple[int, ...] = ()
    oldest = 0
    for chunk in range(600):
        frames = range(3 * chunk, 3 * chunk + 3)
        if chunk and chance.random() < 0.15:
            switches = (*switches, frames.start)[-32:]
        seen = step(policy, memory, frames, switches)
        numbers = [slot.frame for slot in seen]
        assert numbers == expected_by_kind(frames.start, 3, switches, policy)
        pins = [slot.frame for slot in seen if slot.tag == "pin"]
        assert all(any(0 <= frame - s < mark for s in switches) for frame in pins)
        oldest = max([oldest, *(frames.start - frame for frame in pins)])
    assert len(switches) == 32
    assert (oldest > 3 * window) == (markers > 0), "no marker ever outlived the window"


def test_the_prompt_changes_of_the_preset_are_markers_through_the_loop() -> None:
    """With replays: they overwrite in place, and neither bring back what left nor take a marker's tag."""
    policies = make_policies(STREAMING_VLM)
    cache = policies.cache
    assert isinstance(cache, MarkedWindow)
    engine = tiny_engine(tiny_transformer(num_layers=2), levels=(1000.0,), cache=cache, switch=policies.switch)
    stream = tiny_stream(engine)
    script = [FOX] * 5 + [WOLF] * 5 + [FOX] * 2 + [WOLF] * 9 + [FOX] * 5
    for index, controls in enumerate(script):
        stream.next_chunk(controls, decode=False)
        held = stream.state.kv[0].entries
        before = expected_by_kind(3 * index, 3, stream.state.switches, cache)
        assert [slot.frame for slot in held] == [*before, *range(3 * index, 3 * index + 3)]
        assert {slot.frame for slot in held if slot.tag == "pin"} == {15, 30, 36, 63} & {slot.frame for slot in held}
        version = stream.state.text.version
        assert all(slot.prompt == version for slot in held[-3:])
    assert stream.state.switches == (15, 30, 36, 63)
    assert [slot.frame for slot in held] == [0, 1, 2, 30, 36, 63, *range(72, 78)]
    plain = tiny_stream(tiny_engine(tiny_transformer(num_layers=2), levels=(1000.0,), window=12))
    assert film(plain, script)[-1] != film(tiny_stream(engine), script)[-1], "markers do nothing"


def test_a_cut_begins_a_new_sink_and_forgets_the_markers() -> None:
    engine = tiny_engine(levels=(1000.0,), cache=MarkedWindow(), switch=Recache(12, 3))
    stream = tiny_stream(engine)
    film(stream, [FOX] * 3 + [WOLF] * 3 + [Controls("a cat", Transition("cut"))] * 2)
    held = stream.state.kv[0].entries
    assert [(slot.frame, slot.tag) for slot in held] == [
        *((frame, "sink") for frame in (18, 19, 20)),
        *((frame, "recent") for frame in (21, 22, 23)),
    ]


# ------------------------------------------------------------------ means


def test_the_slots_of_an_averaged_memory_are_sink_means_and_recent_frames() -> None:
    policy, memory = AveragedMemory(), Memory()
    layout: dict[int, list[tuple[int, Tag]]] = {}
    for chunk in range(400):
        seen = step(policy, memory, range(3 * chunk, 3 * chunk + 3))
        layout[chunk] = [(slot.frame, slot.tag) for slot in seen]
        assert len(seen) + 3 <= 12
    sink: list[tuple[int, Tag]] = [(0, "sink"), (1, "sink"), (2, "sink")]
    assert layout[1] == sink
    assert layout[2] == [*sink, *((frame, "recent") for frame in (3, 4, 5))]
    assert layout[3] == [*sink, (4, "mean"), (4, "mean"), *((frame, "recent") for frame in (5, 6, 7, 8))]
    for chunk in range(3, 400):
        cur = 3 * chunk
        assert layout[chunk] == [
            *sink,
            *((cur - 5, "mean"), (cur - 5, "mean")),
            *((frame, "recent") for frame in range(cur - 4, cur)),
        ]


def test_every_frame_that_leaves_is_folded_into_every_mean_once() -> None:
    policy, memory, chance = AveragedMemory(window=14, sink=2, shares=(0.01, 0.1, 0.5)), Memory(), random.Random(3)
    folded: dict[float, list[int]] = {share: [] for share in policy.shares}
    for _ in range(300):
        row = row_of(range(memory.cur, memory.cur + chance.randint(1, 5)), commit=True)
        for action in [*policy.begin(row, memory.view())]:
            if isinstance(action, Average):
                folded[action.share] += [memory.slots[index].frame for index in action.slots]
            memory.apply(action)
        for action in policy.end(row, memory.view()):
            memory.apply(action)
        memory.cur = row.frames.stop
        assert len(memory.slots) <= 14
    recent = [slot.frame for slot in memory.slots if slot.tag == "recent"]
    assert all(frames == list(range(2, recent[0])) for frames in folded.values())
    assert recent == list(range(recent[0], memory.cur))


def ema(frames: Sequence[NDArray[np.float64]], share: float) -> NDArray[np.float64]:
    """The weighted sum written out: the first frame begins, each later one takes its share."""
    weights = [share * (1 - share) ** (len(frames) - 1 - n) for n in range(len(frames))]
    weights[0] = (1 - share) ** (len(frames) - 1)
    return sum(weight * frame for weight, frame in zip(weights, frames, strict=True))  # type: ignore[return-value]


def test_the_means_are_the_running_means_of_raw_keys_and_values_in_every_layer() -> None:
    written: dict[int, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}

    def note(work: Pass, row: Row, _x: Tensor, _flow: Tensor, _x0: Tensor | None, store: KVStore) -> None:
        if work.kind == "clean":
            frames = [store.logical(layer) for layer in range(3)]
            for number in row.frames:
                at = [numbers.index(number) for numbers, _, _ in frames]
                written[number] = [
                    (k[:, i].numpy().copy(), v[:, i].numpy().copy()) for i, (_, k, v) in zip(at, frames, strict=True)
                ]

    engine = tiny_engine(dtype=torch.float64, levels=(1000.0,), cache=AveragedMemory(), position=SlotIndex())
    stream = tiny_stream(engine, observer=note)
    film(stream, [FOX] * 20)
    store = stream.state.kv[0]
    assert [slot.tag for slot in store.entries[3:5]] == ["mean", "mean"]
    left = range(3, store.entries[4].frame + 1)
    assert left.stop == 53
    for layer in range(3):
        _, keys, values = store.logical(layer)
        for slot, share in ((3, 0.01), (4, 0.1)):
            for held, part in ((keys, 0), (values, 1)):
                expected = ema([written[frame][layer][part] for frame in left], share)
                assert np.abs(held[:, slot].numpy() - expected).max() < 1e-12
        assert gap(keys[:, 3], keys[:, 4]) > 1e-2, "the two shares make one mean"


SHAPE = KVShape(layers=2, batch=2, capacity=7, own=3, rows=1, columns=2, heads=1, head_dim=12)


def stage(store: KVStore, frames: Sequence[int], keys: Tensor, values: Tensor) -> None:
    """Stand in for a pass: [layers, B, F, T, N, D]."""
    ranges = [SlotRange(len(store.entries), len(store.entries) + len(frames))]
    for layer, memory in enumerate(store.read(ranges, list(range(len(frames))), len(frames))):
        assert memory.staged_keys is not None
        assert memory.staged_values is not None
        memory.staged_keys.copy_(keys[layer].flatten(1, 2))
        memory.staged_values.copy_(values[layer].flatten(1, 2))
    store.stage([Slot(frame) for frame in frames])


def content(frames: int, chance: torch.Generator) -> Tensor:
    s = SHAPE
    return torch.randn(s.layers, s.batch, frames, s.tokens, s.heads, s.head_dim, generator=chance)


def test_a_small_share_moves_a_mean_in_half_precision_too() -> None:
    """Keys of a trained model have channels far from 0: there 1 % of a change is below bfloat16's step."""
    store, chance = KVStore(SHAPE, Buffers.allocate(SHAPE, dtype=torch.bfloat16)), torch.Generator().manual_seed(0)
    exact = rounded = torch.empty(0)
    for frame in range(300):
        keys = (content(1, chance) + 10 + frame / 100).bfloat16()
        stage(store, [frame], keys, -keys)
        store.apply(Write(range(frame, frame + 1), range(len(store.entries), len(store.entries) + 1)))
        if frame == 0:
            store.apply(Average(range(1), 1, 0.01))
            store.apply(Evict(range(1)))
            exact, rounded = keys.double(), keys.clone()
        else:
            store.apply(Average(range(1, 2), 0, 0.01))
            store.apply(Evict(range(1, 2)))
            exact = torch.lerp(exact, keys.double(), 0.01)
            rounded = torch.lerp(rounded, keys, 0.01)
    held = store.logical(0)[1][:, 0]
    assert gap(held.double(), exact[0, :, 0]) <= 0.04, "more than rounding once"
    assert gap(rounded[0, :, 0].double(), exact[0, :, 0]) > 1, "plain bfloat16 would have done"


def test_a_new_prompt_replays_recent_frames_and_leaves_the_means() -> None:
    cache, switch = AveragedMemory(), make_policies(MEM_ROPE).switch
    engine = tiny_engine(levels=(1000.0,), cache=cache, switch=switch, position=SlotIndex())
    replayed: list[Row] = []

    def note(work: Pass, row: Row, _x: Tensor, _flow: Tensor, _x0: Tensor | None, store: KVStore) -> None:
        if work.kind == "replay":
            replayed.append(row)
            assert [slot.prompt for slot in store.entries] == [1] * 5 + [2] * 7
            assert [slot.tag for slot in store.entries[:5]] == ["sink"] * 3 + ["mean"] * 2

    stream = tiny_stream(engine, observer=note)
    film(stream, [FOX] * 8)
    store = stream.state.kv[0]
    before = [store.logical(layer)[1].clone() for layer in range(3)]
    film(stream, [WOLF])
    assert [row.frames for row in replayed] == [range(17, 24)]
    assert store.entries[5].frame == 20
    assert gap(store.logical(2)[1][:, :3], before[2][:, :3]) == 0
    # A longer replay than there is room for keeps the last frames, and no more than the memory holds.
    longer = tiny_stream(tiny_engine(levels=(1000.0,), cache=cache, switch=Recache(12, 3), position=SlotIndex()))
    for count in (2, 3, 4, 8):
        film(longer, [Controls(f"{count} foxes")] * count)
        assert len(longer.state.kv[0].entries) <= 12
        assert [slot.frame for slot in longer.state.kv[0].entries[:3]] == [0, 1, 2]


def test_means_survive_a_snapshot_in_memory_and_on_disk(tmp_path: Path) -> None:
    engine = tiny_engine(levels=(1000.0,), cache=AveragedMemory(), position=SlotIndex())
    stream = tiny_stream(engine)
    film(stream, [FOX] * 6)
    save_snapshot(stream.snapshot(), tmp_path / "s")
    twin = stream.fork()
    after = film(stream, [FOX] * 5)
    assert film(twin, [FOX] * 5) == after
    other = tiny_stream(engine, seed=9)
    film(other, [WOLF] * 7)
    other.restore(load_snapshot(tmp_path / "s"))
    assert film(other, [FOX] * 5) == after
    forgetful = tiny_stream(tiny_engine(levels=(1000.0,), cache=SinkWindow(12, 3), position=SlotIndex()))
    assert film(forgetful, [FOX] * 11)[6:] != after, "the means do nothing"


# ------------------------------------------------------------------ weights of the past


def test_past_frames_are_weighed_but_not_the_first_the_pass_itself_or_a_replay() -> None:
    window, bias = AllRemembered(past_weight=0.3), float(np.log(0.3))
    slots = Slots(0, 30, tuple(Slot(f, "sink" if f < 3 else "recent") for f in (0, 1, 2, 27, 28, 29)))
    row = row_of(range(30, 33))
    weighed = [SlotRange(0, 1), SlotRange(1, 6, pytest.approx(bias)), SlotRange(6, 9)]
    assert window.select(row, slots) == weighed
    assert window.select(replace(row, source="x0"), slots) == weighed, "what is remembered is made as it is used"
    replay = replace(row_of(range(27, 30)), source="stored")
    assert window.select(replay, slots) == AllRemembered().select(replay, slots) == [SlotRange(0, 3), SlotRange(6, 9)]
    assert window.select(row, Slots(0, 30, ())) == [SlotRange(0, 3)]
    later = Slots(0, 40, tuple(Slot(f, "sink" if f < 33 else "recent") for f in (30, 31, 32, 39)))
    assert window.select(row_of(range(40, 41)), later)[0] == SlotRange(0, 1), "after a cut the film begins there"
    slid = Slots(0, 40, (Slot(38), Slot(39)))
    assert [r.bias for r in window.select(row_of(range(40, 41)), slid)] == [pytest.approx(bias), 0.0]
    for wrong in (0.0, -1.0, 1.5):
        with pytest.raises(ValueError, match="more than 0 and at most 1"):
            AllRemembered(past_weight=wrong)


def test_a_weight_multiplies_what_a_past_key_counts_in_the_softmax() -> None:
    """Against a softmax written out, weights instead of logits: w = b * exp(q k), then divided by their sum."""
    attn = tiny_transformer(dtype=torch.float64).blocks[0].attn1
    heads, head_dim, rows, columns = 2, 32, 2, 3
    tokens = rows * columns
    shape = KVShape(1, 1, capacity=5, own=2, rows=rows, columns=columns, heads=heads, head_dim=head_dim)
    store, chance = KVStore(shape, Buffers.allocate(shape, dtype=torch.float64)), torch.Generator().manual_seed(1)
    past_k, past_v = torch.randn(2, 1, 1, 2, tokens, heads, head_dim, generator=chance, dtype=torch.float64)
    hidden = torch.randn(1, 2 * tokens, heads * head_dim, generator=chance, dtype=torch.float64)
    for part in range(2):  # frames 0, 1 and, the same again, 2, 3
        stage(store, [2 * part, 2 * part + 1], past_k, past_v)
        store.apply(Write(range(2 * part, 2 * part + 2), range(2 * part, 2 * part + 2)))

    def attend(weight: float) -> tuple[Tensor, Tensor]:
        row = row_of(range(4, 6))
        ranges = AllRemembered(past_weight=weight).select(row, Slots(0, 4, store.entries))
        memory = store.read(ranges, range(6), 2)[0]
        own = rotary_tables([4, 5], rows, columns, head_dim, dtype=torch.float64)
        got = CausalAttnProcessor()(attn, hidden, None, None, SelfContext(*own, memory))  # type: ignore[arg-type]

        def split(x: Tensor) -> Tensor:
            return x.unflatten(2, (heads, head_dim))

        q = rotate(split(attn.norm_q(attn.to_q(hidden))), *own)
        new_k, new_v = split(attn.norm_k(attn.to_k(hidden))), split(attn.to_v(hidden))
        raw = torch.cat([past_k[0].flatten(1, 2), past_k[0].flatten(1, 2), new_k], dim=1)
        v = torch.cat([past_v[0].flatten(1, 2), past_v[0].flatten(1, 2), new_v], dim=1)
        k = rotate(raw, *rotary_tables(range(6), rows, columns, head_dim, dtype=torch.float64))
        counts = torch.ones(6, dtype=torch.float64)
        counts[1:4] = weight
        w = counts.repeat_interleave(tokens) * torch.einsum("bsnd,bknd->bnsk", q, k).div(head_dim**0.5).exp()
        mixed = torch.einsum("bnsk,bknd->bsnd", w / w.sum(-1, keepdim=True), v)
        return got, attn.to_out[0](mixed.flatten(2, 3))

    plain, biased = attend(1.0), attend(0.2)
    assert gap(*plain) < 1e-12
    assert gap(*biased) < 1e-12
    assert gap(plain[0], biased[0]) > 1e-2, "the bias does nothing"


def test_a_film_with_a_weighed_past_is_another_film_and_weight_one_is_the_same() -> None:
    model = tiny_transformer()
    films = [
        film(tiny_stream(tiny_engine(model, view=view)), [FOX] * 4 + [WOLF] * 2)
        for view in (AllRemembered(), AllRemembered(past_weight=1.0), AllRemembered(past_weight=0.3))
    ]
    assert films[0] == films[1]
    assert films[0][0] == films[2][0], "the first chunk has no past"
    assert not set(films[0][1:]) & set(films[2][1:])


# ------------------------------------------------------------------ the store, action by action


class Listed:
    """The store as a list of (slot, keys, values): what each action means, without an allocation."""

    def __init__(self) -> None:
        self.slots: list[tuple[Slot, Tensor, Tensor]] = []

    def apply(self, action: Action, staged: dict[int, tuple[Tensor, Tensor]]) -> None:
        match action:
            case Write(frames, slots, tag):
                for frame, slot in zip(frames, slots, strict=True):
                    self.slots[slot : slot + 1] = [(Slot(frame, tag), *staged[frame])]
            case Evict(slots):
                del self.slots[slots.start : slots.stop]
            case Move(slot, to):
                self.slots.insert(to, self.slots.pop(slot))
            case Pin(slots, tag):
                for i in slots:
                    self.slots[i] = (replace(self.slots[i][0], tag=tag), *self.slots[i][1:])
            case Rebase(slots, base):
                for i in slots:
                    self.slots[i] = (replace(self.slots[i][0], base=base), *self.slots[i][1:])
            case Average(slots, into, share):
                folded = [self.slots[i] for i in slots]
                if into == len(self.slots):
                    first, *folded = folded
                    self.slots.append((replace(first[0], tag="mean"), *first[1:]))
                for slot, k, v in folded:
                    mean, mean_k, mean_v = self.slots[into]
                    weighed = (mean_k * (1 - share) + k * share, mean_v * (1 - share) + v * share)
                    self.slots[into] = (replace(mean, frame=slot.frame), *weighed)
            case _:
                raise AssertionError(action)


def any_action(chance: random.Random, held: int, staged: range) -> Action:
    """One that a store of 7 with `held` slots can carry out."""
    room, kinds = SHAPE.capacity - held, ["write"]
    if held:
        kinds += ["evict", "move", "pin", "rebase", "overwrite", "fold"] + ["begin"] * (room > 0)
    if not room:
        kinds.remove("write")
    first = chance.randrange(held) if held else 0
    some = range(first, chance.randint(first + 1, held)) if held else range(0)
    match chance.choice(kinds):
        case "write":
            count = chance.randint(1, min(room, len(staged)))
            return Write(staged[:count], range(held, held + count), chance.choice(("sink", "recent")))
        case "overwrite":
            return Write(staged[:1], range(first, first + 1), "anchor")
        case "evict":
            return Evict(some)
        case "move":
            return Move(first, chance.randrange(held))
        case "pin":
            return Pin(some, chance.choice(("pin", "anchor", "recent")))
        case "rebase":
            return Rebase(some, chance.randint(-5, 50))
        case "begin":
            return Average(some, held, chance.choice((0.01, 0.5, 1.0)))
        case _:
            into = chance.randrange(held)
            others = some if into not in some else range(into) if into else range(1, held)
            return Average(others, into, chance.choice((0.01, 0.5, 1.0))) if others else Pin(some, "recent")


def same(store: KVStore, listed: Listed, chance: random.Random) -> None:
    """Slots, raw content in each layer, and the rotated keys of a read at arbitrary positions."""
    assert [replace(slot, prompt=0, level=0.0) for slot in store.entries] == [slot for slot, _, _ in listed.slots]
    store.stage([])
    positions = [chance.randint(0, 99) for _ in listed.slots]
    seen = store.read([SlotRange(0, len(listed.slots) + 1)], [*positions, 0], 1)
    for layer in range(SHAPE.layers):
        frames, keys, values = store.logical(layer)
        assert len(frames) == len(listed.slots)
        for index, (_, k, v) in enumerate(listed.slots):
            assert gap(keys[:, index], k[layer]) < 1e-12
            assert gap(values[:, index], v[layer]) < 1e-12
            table = rotary_tables([positions[index]], 1, 2, SHAPE.head_dim, dtype=torch.float64)
            part = slice(2 * index, 2 * index + 2)
            assert gap(seen[layer].keys[:, part], rotate(k[layer], *table)) < 1e-12
            assert gap(seen[layer].values[:, part], v[layer]) < 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_a_store_does_what_a_list_would_action_by_action(seed: int) -> None:
    chance, draws = random.Random(seed), torch.Generator().manual_seed(seed)
    store, listed = KVStore(SHAPE, Buffers.allocate(SHAPE, dtype=torch.float64)), Listed()
    saved, done, frame = (copied(store), list(listed.slots)), set[type](), 0
    for number in range(250):
        keys, values = content(3, draws).double(), content(3, draws).double()
        stage(store, range(frame, frame + 3), keys, values)
        staged = {frame + i: (keys[:, :, i], values[:, :, i]) for i in range(3)}
        action = any_action(chance, len(listed.slots), range(frame, frame + 3))
        store.apply(action)
        listed.apply(action, staged)
        same(store, listed, chance)
        frame += 3
        done.add(type(action))
        if number % 40 == 20:
            saved = copied(store), list(listed.slots)
        if number % 40 == 39:
            assert [slot for slot, _, _ in saved[1]] != [slot for slot, _, _ in listed.slots]
            put_back(store, saved[0], torch.device("cpu"))
            listed.slots = list(saved[1])
            same(store, listed, chance)
        if number == 200:
            store.reset()
            listed.slots = []
    assert done == {Write, Evict, Move, Pin, Rebase, Average}


# ------------------------------------------------------------------ room


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "policy", [MarkedWindow(), MarkedWindow(14, 2, 4, 2), AveragedMemory(), AveragedMemory(9, 1, ())]
)
def test_no_kind_of_memory_outgrows_its_room_whatever_happens(policy: CachePolicy, seed: int) -> None:
    """Chunks of any length that fits, switches, replays of any length, and cuts."""
    chance, memory, switches = random.Random(seed), Memory(), ()
    most = policy.capacity - policy.protected
    for _ in range(400):
        event = chance.random()
        if event < 0.05:
            memory.table.reset()
        elif event < 0.25 and memory.cur:
            switches = (*switches, memory.cur)[-32:]
            if event < 0.2:
                count = chance.randint(1, min(policy.capacity, memory.cur))
                if event < 0.1:
                    memory.table.reset()
                step(policy, memory, range(memory.cur - count, memory.cur), switches)
        step(policy, memory, range(memory.cur, memory.cur + chance.randint(1, most)), switches)
        frames = memory.frames()
        assert len(memory.slots) <= policy.capacity
        assert frames == sorted(set(frames))
        assert frames[-1] == memory.cur - 1
    with pytest.raises(ValueError, match="does not fit"):
        step(policy, memory, range(memory.cur, memory.cur + policy.capacity), switches)


def test_a_memory_without_room_for_a_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot hold a sink of 3, 3 markers"):
        MarkedWindow(window=6)
    with pytest.raises(ValueError, match="cannot hold a sink of 3, 2 means"):
        AveragedMemory(window=5)
    with pytest.raises(ValueError, match=r"share of a mean .* \(0\.0,\)"):
        AveragedMemory(shares=(0.0,))


@pytest.mark.parametrize("preset", [MEM_ROPE, STREAMING_VLM], ids=lambda preset: preset.name)
def test_the_presets_run_on_what_serial_clean_models_were_trained_for(preset: object) -> None:
    assert preset in (MEM_ROPE, STREAMING_VLM)
    assert (MEM_ROPE.plan, STREAMING_VLM.plan) == ("serial-clean", "serial-clean")
    assert MEM_ROPE.cache.capacity == STREAMING_VLM.cache.capacity == 12
