"""Replays that leave shallow layers as they are: what they compute, and when the drift test asks for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cache.kinds import AveragedMemory
from cache.kv import KVStore
from cache.positions import SlotIndex
from cache.switches import ElasticRecache, Keep, Recache
from cache.types import Evict, Pass, Replay, Row, Slot, Slots, SwitchPolicy
from models.wan import CausalWanTransformer3DModel
from pipelines.snapshots import load_snapshot, save_snapshot
from pipelines.streaming import Stream
from pipelines.types import Controls, Transition
from tests.tiny import FOX, WOLF, film, gap, tiny_engine, tiny_stream, tiny_transformer

NEVER, ALWAYS = 1e9, 0.0
"""Limits that no replay moves keys past, and that every one does."""

Keys = list[tuple[Tensor, Tensor]]


def keys_of(store: KVStore) -> Keys:
    """Raw keys and values of the committed memory, by layer."""
    held = len(store.entries)
    return [(k[:, :held].clone(), v[:, :held].clone()) for _, k, v in map(store.logical, range(store.shape.layers))]


class Replays:
    """An observer that keeps each replay's row, first layer and the memory after it."""

    def __init__(self) -> None:
        self.seen: list[tuple[Row, int, Keys]] = []

    def __call__(self, work: Pass, row: Row, _x: Tensor, _flow: Tensor, _x0: Tensor | None, store: KVStore) -> None:
        if work.kind == "replay":
            self.seen.append((row, work.from_layer, keys_of(store)))

    @property
    def layers(self) -> list[int]:
        return [layer for _, layer, _ in self.seen]


def begun(switch: SwitchPolicy, model: CausalWanTransformer3DModel | None = None) -> tuple[Stream, Replays]:
    """Five chunks of one prompt, in float64 so that differences are the method's."""
    replays = Replays()
    model = model or tiny_transformer(dtype=torch.float64, num_layers=4)
    stream = tiny_stream(tiny_engine(model, levels=(1000.0,), switch=switch), observer=replays)
    film(stream, [FOX] * 5)
    return stream, replays


def shortened(layer: int, limit: float = NEVER) -> ElasticRecache:
    return ElasticRecache(window=9, sink=3, layer=layer, limit=limit)


def next_latents(stream: Stream, controls: Controls = WOLF) -> Tensor:
    chunk = stream.next_chunk(controls, decode=False)
    return stream.state.latents.get(chunk.latent)


@contextmanager
def inputs_of(model: CausalWanTransformer3DModel, layer: int, give: Tensor | None = None) -> Iterator[list[Tensor]]:
    """What enters a block, call by call; with `give`, that in its place."""
    seen: list[Tensor] = []

    def hook(_block: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        seen.append(args[0].clone())
        return None if give is None or give.shape != args[0].shape else (give, *args[1:])

    handle = model.blocks[layer].register_forward_pre_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


def test_the_first_layer_does_not_know_the_text_and_a_replay_from_layer_1_is_a_whole_one() -> None:
    whole, of_whole = begun(Recache(9, 3))
    before = keys_of(whole.state.kv[0])
    short, of_short = begun(shortened(1))
    kept, _ = begun(Keep())
    films = [next_latents(stream) for stream in (whole, short, kept)]
    assert (of_whole.layers, of_short.layers) == ([0], [1])
    after, shallow = of_whole.seen[0][2], of_short.seen[0][2]
    for part in range(2):
        assert gap(after[0][part], before[0][part]) < 1e-12
        assert gap(after[1][part], before[1][part]) > 1e-2
        assert torch.equal(shallow[0][part], before[0][part])
        assert all(gap(a[part], b[part]) < 1e-12 for a, b in zip(after, shallow, strict=True))
    assert gap(films[0], films[1]) < 1e-12
    assert gap(films[0], films[2]) > 1e-2, "the replay does nothing"


@pytest.mark.parametrize("layer", [2, 3])
def test_a_shortened_replay_runs_the_deep_layers_on_what_entered_them_before(layer: int) -> None:
    """Against a whole replay into whose block the inputs seen in the clean passes are put by hand."""
    model = tiny_transformer(dtype=torch.float64, num_layers=4)
    stream = tiny_stream(tiny_engine(model, levels=(1000.0,), switch=Recache(9, 3)))
    with inputs_of(model, layer - 1) as seen:
        film(stream, [FOX] * 5)
    entered = torch.cat(seen[1::2][-2:], dim=1)  # the clean passes of the last two chunks
    before = keys_of(stream.state.kv[0])
    replays = Replays()
    twin = tiny_stream(tiny_engine(model, levels=(1000.0,), switch=Recache(9, 3)), observer=replays)
    twin.restore(stream.snapshot())
    with inputs_of(model, layer - 1, give=entered):
        next_latents(twin)

    short, observed = begun(shortened(layer), model)
    with inputs_of(model, layer - 2) as skipped, inputs_of(model, layer - 1) as run:
        next_latents(short)
    assert len(run) == len(skipped) + 1 == 3, "a replay, a noisy and a clean pass; the layers below had no replay"
    ((row, first, after),) = observed.seen
    assert (row.frames, first) == (range(9, 15), layer)
    expected = replays.seen[0][2]
    for number, (old, new, right) in enumerate(zip(before, after, expected, strict=True)):
        for part in range(2):
            if number < layer:
                assert torch.equal(new[part], old[part])
            else:
                assert gap(new[part], right[part]) < 1e-12
                assert gap(new[part][:, 3:], old[part][:, 3:]) > 1e-2


def test_keys_that_moved_too_far_are_replayed_whole_a_chunk_later_and_others_are_not() -> None:
    layer = 2
    stream, replays = begun(shortened(layer))
    before = keys_of(stream.state.kv[0])[layer][0][:, 3:]
    film(stream, [WOLF])
    after = replays.seen[0][2][layer][0][:, 3:]
    moved = float((after - before).norm() / before.norm())
    assert 0.05 < moved < 3
    assert stream.state.kv[0].slots(0).moved is None, "read before the chunk is over, it would be waited for"
    film(stream, [WOLF] * 3)
    assert replays.layers == [layer]

    for limit, expected in ((moved * 0.999, [layer, 0]), (moved * 1.001, [layer])):
        stream, replays = begun(shortened(layer, limit))
        film(stream, [WOLF] * 5)
        assert replays.layers == expected
    assert [row.text for row, _, _ in replays.seen] == [2]
    stream, replays = begun(shortened(layer, ALWAYS))
    film(stream, [WOLF] * 4)
    assert [(row.frames, row.text) for row, _, _ in replays.seen] == [(range(9, 15), 2), (range(12, 18), 2)]


def test_what_a_new_prompt_finds_pending() -> None:
    """Another switch replays whole at once; keep leaves the memory alone; a cut forgets; a blend begins anew."""
    for transition, expected in (
        (Transition("recache"), [2, 0]),
        (Transition("keep"), [2]),
        (Transition("cut"), [2]),
        (Transition("soft", 2), [2, 2, 0]),
    ):
        stream, replays = begun(shortened(2, ALWAYS))
        film(stream, [WOLF, *[Controls("a cat", transition)] * 6])
        assert replays.layers == expected, transition


def test_a_film_goes_on_alike_from_between_a_shortened_replay_and_its_correction(tmp_path: Path) -> None:
    stream, replays = begun(shortened(2, ALWAYS))
    film(stream, [WOLF])
    save_snapshot(stream.snapshot(), tmp_path / "s")
    twin = stream.fork()
    after = film(stream, [WOLF] * 2 + [FOX] * 2)
    assert replays.layers == [2, 0, 2, 0]
    assert film(twin, [WOLF] * 2 + [FOX] * 2) == after
    other, of_other = begun(shortened(2, ALWAYS))
    film(other, [Controls("a cat")] * 2)
    of_other.seen.clear()
    other.restore(load_snapshot(tmp_path / "s"))
    assert film(other, [WOLF] * 2 + [FOX] * 2) == after
    assert of_other.layers == [0, 2, 0]


def test_frames_that_are_not_remembered_are_replayed_whole() -> None:
    elastic = ElasticRecache(12, 3)
    held = Slots(0, 30, tuple(Slot(frame) for frame in (0, 1, 2, *range(21, 30))))
    assert elastic.plan(held, 1, 2) == [Replay(range(21, 30), from_layer=2)]
    assert elastic.plan(held, 2, 2) == []
    assert elastic.plan(replace(held, moved=0.09), 2, 2) == []
    assert elastic.plan(replace(held, moved=0.11), 2, 2) == elastic.plan(replace(held, moved=0.11), 1, 2)
    assert elastic.plan(replace(held, moved=0.11), 1, 2) == [Replay(range(21, 30))]
    gone = Slots(0, 30, tuple(Slot(frame) for frame in (0, 1, 2, *range(23, 30))))
    assert elastic.plan(gone, 1, 2) == [Replay(range(21, 30))]
    renewed = replace(elastic, keep_sink=False)
    assert renewed.plan(held, 1, 2) == [Evict(range(12)), Replay(range(18, 30))]
    engine = tiny_engine(levels=(1000.0,), cache=AveragedMemory(), switch=elastic, position=SlotIndex())
    replays = Replays()
    film(tiny_stream(engine, observer=replays), [FOX] * 8 + [WOLF])
    assert replays.layers == [0]


def test_a_layer_that_is_not_there_or_not_kept_is_refused() -> None:
    for wrong in ({"layer": 0}, {"limit": -1.0}, {"limit": float("nan")}):
        with pytest.raises(ValueError, match="begins at layer 1 or later"):
            ElasticRecache(**wrong)  # type: ignore[arg-type]  # one of an int and a float
    with pytest.raises(ValueError, match="layer 1 to 2 of this model, not 3"):
        tiny_stream(tiny_engine(switch=shortened(3)))
    stream, _ = begun(Recache(9, 3))
    with pytest.raises(ValueError, match="keeps nothing to begin a replay from layer 2"):
        stream._carry_out(Replay(range(9, 15), from_layer=2))
    stream, _ = begun(shortened(2))
    stream.state.kv[0].apply(Evict(range(5, 6)))
    with pytest.raises(ValueError, match=r"from layer 2 on cannot bring back frame 11"):
        stream._carry_out(Replay(range(9, 15), from_layer=2))


def test_nothing_is_kept_for_a_switch_that_replays_whole() -> None:
    stream, _ = begun(Recache(9, 3))
    assert not {"entering", "moved"} & stream.snapshot().kv[0].keys()
    stream, _ = begun(shortened(2))
    assert stream.snapshot().kv[0]["entering"].shape == (1, 9, 6, 64)  # type: ignore[attr-defined]  # a tensor
