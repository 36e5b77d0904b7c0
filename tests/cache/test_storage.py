"""What holds keys and values is a class of its own: another layout changes no bit, another precision does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cache.averaging import Means
from cache.deep_forcing import DeepForcing
from cache.fifo import SinkWindow
from cache.kv_shape import KVShape
from cache.positions import MovedSink, SlotIndex
from cache.refresh import SinkRefresh
from cache.slots import Fold, Put, SlotTable
from cache.storage import EVERY, NewStorage, Storage
from cache.switches import Keep
from cache.tagged_memory import AveragedMemory
from cache.types import Average, Evict, Slot, Write
from pipelines.engine import Engine
from pipelines.snapshots import load_snapshot, save_snapshot
from schedulers.batch import StreamBatch
from tests.tiny import FOX, WOLF, film, tiny_engine, tiny_stream

SCRIPT = [FOX] * 6 + [WOLF] * 4


class Scattered(Storage):
    """The numbers as they are, every frame a tensor of its own with its axes the other way round."""

    def __init__(self, shape: KVShape, *, device: torch.device | str = "cpu", dtype: torch.dtype) -> None:
        sizes = (shape.head_dim, shape.heads, shape.tokens, shape.batch, shape.layers, 2)
        self._frames = [torch.zeros(sizes, device=device, dtype=dtype) for _ in range(shape.capacity)]

    def write(self, place: int, content: Tensor, layers: slice = EVERY) -> None:
        self._frames[place][..., layers, :].copy_(content.permute(5, 4, 3, 2, 1, 0))

    def read(self, place: int, layers: slice = EVERY) -> Tensor:
        return self._frames[place][..., layers, :].permute(5, 4, 3, 2, 1, 0).contiguous()

    def tensors(self) -> dict[str, Tensor]:
        return {f"frame {place}": frame for place, frame in enumerate(self._frames)}


class Coarse(Storage):
    """Whole numbers of 1/64 in 16 bits."""

    def __init__(self, shape: KVShape, *, device: torch.device | str = "cpu", dtype: torch.dtype) -> None:
        sizes = (shape.capacity, 2, shape.layers, shape.batch, shape.tokens, shape.heads, shape.head_dim)
        self._steps, self._dtype = torch.zeros(sizes, device=device, dtype=torch.int16), dtype

    def write(self, place: int, content: Tensor, layers: slice = EVERY) -> None:
        self._steps[place][:, layers].copy_((content * 64).round())

    def read(self, place: int, layers: slice = EVERY) -> Tensor:
        return self._steps[place][:, layers].to(self._dtype) / 64

    def tensors(self) -> dict[str, Tensor]:
        return {"steps": self._steps}


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "means": {"cache": AveragedMemory(), "position": SlotIndex(), "levels": (1000.0,)},
    "frames scored": {"cache": SinkRefresh(window=6, sink=3, threshold=0.95), "switch": Keep()},
    "tokens scored": {
        "cache": DeepForcing(window=8, sink=2, budget=7, recent=3),
        "position": MovedSink(),
        "switch": Keep(),
    },
}


def engine_of(kind: str, storage: NewStorage) -> Engine:
    return replace(tiny_engine(**KINDS[kind]), storage=storage)


@pytest.mark.parametrize("kind", KINDS)
def test_how_keys_lie_in_memory_changes_no_bit_of_any_film(kind: str) -> None:
    expected = film(tiny_stream(tiny_engine(**KINDS[kind])), SCRIPT)
    assert film(tiny_stream(engine_of(kind, Scattered)), SCRIPT) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_coarser_storage_is_what_passes_see_and_films_go_on_from_it(kind: str, tmp_path: Path) -> None:
    engine = engine_of(kind, Coarse)
    stream = tiny_stream(engine)
    before = film(stream, SCRIPT[:7])
    exact = film(tiny_stream(tiny_engine(**KINDS[kind])), SCRIPT[:7])
    assert before[0] == exact[0], "the first chunk has no past"
    assert not {*before[1:]} & {*exact[1:]}
    save_snapshot(stream.snapshot(), tmp_path / "s")
    after = film(stream, SCRIPT[7:])
    again = tiny_stream(engine, seed=5)
    again.restore(load_snapshot(tmp_path / "s"))
    assert film(again, SCRIPT[7:]) == after
    assert {"steps"} <= stream.state.kv[0].tensors().keys()
    assert not {"keys", "values"} & stream.state.kv[0].tensors().keys()


@pytest.mark.parametrize("kind", [*KINDS, "lanes", "guided"])
def test_where_keys_wait_and_how_many_layers_the_view_holds_changes_no_bit(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written as they are made or after the pass; turned once for all passes, or by each layer for itself."""
    more: dict[str, Any] = {
        "lanes": {
            "plan": StreamBatch((1000.0, 600.0), chunk=1),
            "cache": SinkWindow(5, 1, keeps="level"),
            "switch": Keep(),
        },
        "guided": {
            "cache": DeepForcing(window=8, sink=2, budget=7, recent=3),
            "position": MovedSink(),
            "switch": Keep(),
        },
    }
    engine = tiny_engine(**(KINDS | more)[kind])
    if kind == "guided":
        engine = replace(engine, policies=replace(engine.policies, guidance_scale=3.0))
    whole = tiny_stream(engine)
    expected = film(whole, SCRIPT)
    assert film(tiny_stream(engine, observer=lambda *_: None), SCRIPT) == expected
    monkeypatch.setattr("cache.kv_shape.VIEW_KEPT", 0)
    by_layer = tiny_stream(engine)
    assert film(by_layer, SCRIPT) == expected
    assert film(tiny_stream(engine, observer=lambda *_: None), SCRIPT) == expected
    held = [stream._passes._buffers.view.shape[1] for stream in (whole, by_layer)]
    assert held == [3, 1]
    assert by_layer._passes._buffers.nbytes == by_layer._passes._buffers.view.nbytes, "something had to wait"


def test_a_frame_that_the_pass_still_needs_waits() -> None:
    table = SlotTable(3)
    staged = [Slot(frame) for frame in range(6)]
    for action in (Write(range(3), range(3)), Evict(range(1))):
        table.apply(action, staged)
    assert table.foresee([Write(range(3, 4), range(2, 3))], staged, [1, 2]) == [Put(3, 3, 0)]
    assert [slot.frame for slot in table.entries] == [1, 2], "only looked ahead"
    leaves = [Evict(range(1)), Write(range(3, 5), range(1, 3))]
    assert table.foresee(leaves, staged, [2]) == [Put(3, 3, 0), Put(4, 4, 1)]
    assert table.foresee(leaves, staged, [1, 2]) is None, "frame 4 goes where the pass sees frame 1"
    mean = [Average(range(1), 2, 0.5), Evict(range(1)), Write(range(4, 5), range(2, 3))]
    assert table.foresee(mean, staged, []) is None, "frame 4 goes where the mean is still taken from"
    overwritten = [Write(range(2, 3), range(1, 2))]
    assert table.foresee(overwritten, staged, [1]) == [Put(2, 2, 2)]


def test_a_snapshot_of_another_storage_is_refused() -> None:
    stream = tiny_stream(engine_of("plain", Coarse))
    with pytest.raises(ValueError, match="restore it into a stream of the same preset"):
        stream.restore(tiny_stream(tiny_engine()).snapshot())


def test_a_mean_is_exact_beside_a_storage_that_is_not() -> None:
    """Shares of 1 % of a change that the storage rounds away still add up."""
    shape = KVShape(layers=1, batch=1, capacity=2, own=1, rows=1, columns=1, heads=1, head_dim=2)
    storage = Coarse(shape, dtype=torch.float32)
    means = Means(storage, torch.float32)
    for place, value in ((0, 0.0), (1, 0.5)):
        storage.write(place, torch.full((2, 1, 1, 1, 1, 2), value))
    for _ in range(300):
        means.changed(Fold(place=1, into=0, share=0.01))
    assert storage.read(0).unique().tolist() == [round(64 * 0.5 * (1 - 0.99**300)) / 64]
