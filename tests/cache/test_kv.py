"""The store keeps what the policies ask for: fresh after every change, in the places that came free."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cache.kv import KVStore
from cache.kv_shape import KVShape
from cache.rope import rotate
from cache.types import (
    NATIVE,
    Evict,
    Move,
    Replay,
    Slot,
    SlotRange,
    Write,
)
from pipelines.tree import check, copied, put_back

SHAPE = KVShape(layers=2, batch=2, capacity=4, own=3, rows=1, columns=2, heads=1, head_dim=12)


def stage(store: KVStore, frames: Sequence[int]) -> None:
    """Stand in for a pass: keys of frame f in layer l are f + l / 10, values the negative of it."""
    tokens, s = store.shape.tokens, store.shape
    ranges = [SlotRange(len(store.entries), len(store.entries) + len(frames))]
    for layer, memory in enumerate(store.read(ranges, list(range(len(frames))), len(frames))):
        for index, frame in enumerate(frames):
            part = slice(index * tokens, (index + 1) * tokens)
            content = torch.full((s.batch, tokens, s.heads, s.head_dim), frame + layer / 10)
            assert memory.staged_keys is not None
            assert memory.staged_values is not None
            memory.staged_keys[:, part], memory.staged_values[:, part] = content, -content
    store.stage([Slot(frame) for frame in frames])


def keep(store: KVStore, *frames: int) -> None:
    stage(store, frames)
    count = len(store.entries)
    store.apply(Write(range(frames[0], frames[-1] + 1), range(count, count + len(frames))))


def content(store: KVStore, layer: int = 1) -> dict[int, float]:
    frames, keys, values = store.logical(layer)
    assert torch.equal(keys, -values)
    return {frame: float(keys[0, index].unique()) for index, frame in enumerate(frames)}


def test_the_store_forgets_and_writes_in_the_places_that_came_free() -> None:
    store = KVStore(SHAPE)
    keep(store, 0, 1, 2)
    assert content(store) == pytest.approx({0: 0.1, 1: 1.1, 2: 2.1})
    store.apply(Evict(range(1, 2)))
    keep(store, 3, 4)
    assert [slot.frame for slot in store.entries] == [0, 2, 3, 4]
    stage(store, [4])
    store.apply(Write(range(4, 5), range(1, 2), "anchor"))
    assert [(slot.frame, slot.tag) for slot in store.entries][1] == (4, "anchor")
    with pytest.raises(ValueError, match="must evict before it writes"):
        keep(store, 5)


def test_the_store_refuses_what_it_cannot_do() -> None:
    store = KVStore(SHAPE)
    stage(store, [0])
    with pytest.raises(ValueError, match="slots are written in order"):
        store.apply(Write(range(1), range(2, 3)))
    with pytest.raises(ValueError, match="cannot carry out"):
        store.apply(Replay(range(1)))
    with pytest.raises(ValueError, match="one run"):
        store.read([SlotRange(0, 2), SlotRange(3, 4)], [0, 1, 2], 3)
    with pytest.raises(ValueError, match="built for 3"):
        store.read([SlotRange(0, 4)], [0, 1, 2, 3], 4)


def seen(store: KVStore, positions: Sequence[int], ranges: Sequence[SlotRange] | None = None) -> Tensor:
    count = len(store.entries)
    ranges = [SlotRange(0, count + 1)] if ranges is None else ranges
    memory = store.read(ranges, [*positions, 0], 1)[1]
    return memory.keys[:, : memory.own].clone()


def test_a_read_is_fresh_after_every_change_of_content_or_positions() -> None:
    store = KVStore(SHAPE)
    keep(store, 0, 1)
    first = seen(store, [0, 1])
    assert not torch.equal(seen(store, [0, 7]), first), "new positions, old view"
    assert torch.equal(seen(store, [0, 1]), first)
    assert torch.equal(seen(store, [NATIVE, NATIVE]), first), "a frame's native position is its number"
    saved = copied(store)
    for memory in store.read([SlotRange(0, 3)], [0, 1, 2], 1):  # a pass that sees both and rewrites frame 0
        assert memory.staged_keys is not None
        memory.staged_keys.fill_(7.0)
    store.stage([Slot(0)])
    store.apply(Write(range(1), range(1)))
    changed = seen(store, [0, 1])
    assert not torch.equal(changed, first), "new content, old view"
    put_back(store, saved, torch.device("cpu"))
    assert torch.equal(seen(store, [0, 1]), first), "restored content, old view"
    store.reset()
    assert seen(store, []).shape[1] == 0


def run_pass(store: KVStore, frame: int, positions: Sequence[int], draw: torch.Generator) -> list[Tensor]:
    """A pass of one frame that sees all and writes everything it may; returns what it saw of the past."""
    count, saw = len(store.entries), list[Tensor]()
    for memory in store.read([SlotRange(0, count + 1)], [*positions, 0], 1):
        saw += [memory.keys[:, : memory.own].clone(), memory.values[:, : memory.own].clone()]
        for part in (
            memory.keys[:, memory.own :],
            memory.values[:, memory.own :],
            memory.staged_keys,
            memory.staged_values,
        ):
            assert part is not None
            part.copy_(torch.randn(part.shape, generator=draw))
    store.stage([Slot(frame)])
    return saw


@pytest.mark.parametrize("heads", [1, 3])
def test_a_view_brought_up_to_date_is_the_one_made_anew_bit_for_bit(heads: int) -> None:
    """With one head a product of complex numbers runs over a frame's tokens, and its end is rounded otherwise."""
    shape = replace(SHAPE, rows=3, columns=5, heads=heads, head_dim=20)
    choose, draw = random.Random(heads), torch.Generator().manual_seed(heads)
    store = KVStore(shape)
    for frame in range(60):
        count = len(store.entries)
        if count == shape.capacity:
            store.apply(Evict(range(choose.randrange(count), count)))
            count = len(store.entries)
        if count > 1:
            store.apply(Move(choose.randrange(count), choose.randrange(count)))
        positions = choose.sample(range(6), count)
        anew = KVStore(shape)
        put_back(anew, copied(store), torch.device("cpu"))
        fresh = run_pass(anew, frame, positions, torch.Generator())
        for brought, made in zip(run_pass(store, frame, positions, draw), fresh, strict=True):
            assert torch.equal(brought, made)
        over = choose.randrange(count + 1)  # a frame again, or a new one
        store.apply(Write(range(frame, frame + 1), range(over, over + 1)))


def test_only_frames_that_changed_are_turned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    turned: list[int] = []
    monkeypatch.setattr("cache.view.rotate", lambda x, *rest, **out: turned.append(1) or rotate(x, *rest, **out))
    store, draw = KVStore(SHAPE), torch.Generator()
    for frame in range(SHAPE.capacity):
        run_pass(store, frame, range(frame), draw)
        store.apply(Write(range(frame, frame + 1), range(frame, frame + 1)))
    assert len(turned) == 3, "a frame is turned when it is first seen, and the last was not"
    run_pass(store, 4, [0, 1, 2, 3], draw)
    run_pass(store, 4, [0, 1, 2, 3], draw)
    assert len(turned) == 4
    store.apply(Evict(range(2, 3)))
    run_pass(store, 4, [0, 1, 2], draw)
    assert len(turned) == 5, "the frame that moved up, and not the two before it"


def test_a_bias_reaches_the_keys_of_its_range_alone() -> None:
    store = KVStore(SHAPE)
    keep(store, 0, 1)
    ranges = [SlotRange(0, 1), SlotRange(1, 2, bias=-2.5), SlotRange(2, 4)]
    bias = store.read(ranges, [0, 1, 2, 3], 2)[0].bias
    assert bias is not None
    assert bias.tolist() == [0, 0, -2.5, -2.5, 0, 0, 0, 0]
    assert store.read([SlotRange(0, 4)], [0, 1, 2, 3], 2)[0].bias is None, "no bias, no mask for the kernels"


def test_a_snapshot_of_another_shape_is_refused_with_a_sentence() -> None:
    other = copied(KVStore(KVShape(2, 2, 5, 3, 1, 2, 1, 12)))
    with pytest.raises(ValueError, match="restore it into a stream of the same preset, model, size"):
        check(KVStore(SHAPE), other, "memory")
