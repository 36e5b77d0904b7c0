"""A memory in fewer bits: its error is half a step, its size what it promises, and films go on from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cache.kv_shape import KV_BITS, KVShape
from cache.quantised import KV_STORAGES, Quantised
from cache.storage import Dense
from pipelines.build import make_policies
from pipelines.presets import PRESETS
from pipelines.presets.knobs import apply_knobs
from pipelines.snapshots import load_snapshot, save_snapshot
from tests.tiny import FOX, WOLF, film, gap, tiny_engine, tiny_stream

SHAPE = KVShape(layers=2, batch=1, capacity=3, own=1, rows=8, columns=8, heads=2, head_dim=32)
SIZES = (2, 2, 1, 64, 2, 32)


def frame(seed: int = 0) -> torch.Tensor:
    """Keys with channels that are far out, and values."""
    content = torch.randn(SIZES, generator=torch.Generator().manual_seed(seed))
    content[0, ..., 3] += 20
    content[0, ..., 7] *= 10
    return content


@pytest.mark.parametrize("name", KV_BITS)
def test_what_is_read_is_within_half_a_step(name: str) -> None:
    """T28: elementwise; constant channels are exact."""
    storage, content = KV_STORAGES[name](SHAPE, dtype=torch.float32), frame()
    assert isinstance(storage, Quantised)
    content[0, :, :, :, 1] = 0.75
    storage.write(1, content)
    held = storage.read(1)
    keys = (held[0] - content[0]).abs()
    assert bool((keys <= storage._key_step[:, :, 1] * 0.5 + 1e-5).all())
    values = (held[1] - content[1]).abs()
    assert bool((values <= storage._value_step[:, :, 1].float() * 0.57).all()), "steps are rounded to 16 bits"
    assert gap(held[0, :, :, :, 1], content[0, :, :, :, 1]) < 1e-5
    assert gap(held[1], content[1]) > 1e-4


@pytest.mark.parametrize(("name", "most"), [("int8", 1e-2), ("int4", 0.15)])
def test_attention_over_it_is_nearly_the_same(name: str, most: float) -> None:
    storage, content = KV_STORAGES[name](SHAPE, dtype=torch.float32), frame()
    storage.write(0, content)
    query = torch.randn((2, 1, 16, 2, 32), generator=torch.Generator().manual_seed(1)) / 4

    def seen(kv: torch.Tensor) -> torch.Tensor:
        q, k, v = (x[0].transpose(1, 2) for x in (query, kv[0], kv[1]))
        return F.scaled_dot_product_attention(q, k, v)

    exact = seen(content)
    assert float((seen(storage.read(0)) - exact).norm() / exact.norm()) < most


def test_a_layer_is_written_alone_and_others_keep_theirs() -> None:
    storage, content = Quantised(SHAPE, 8), frame()
    storage.write(2, content)
    other = frame(5)
    storage.put(2, 1, other[0, 1], other[1, 1])
    assert torch.equal(storage.read(2)[:, :1], storage.read(2, slice(0, 1)))
    assert gap(storage.read(2)[:, 0], content[:, 0]) < 0.2
    assert gap(storage.read(2)[:, 1], other[:, 1]) < 0.2


@pytest.mark.parametrize(("name", "most"), [("int8", 0.55), ("int4", 0.32)])
def test_it_takes_what_it_promises_beside_bfloat16(name: str, most: float) -> None:
    """Of Wan 1.3B at 480x832 with the memory of longlive, the view of a layer included."""
    shape = KVShape(30, 1, 12, 12, 30, 52, 12, 128)

    def allocated(storage: object) -> int:
        assert isinstance(storage, Dense | Quantised)
        held = sum(tensor.nbytes for tensor in storage.tensors().values())
        return held + shape.allocated(1, 2) - shape.remembered(1, 2)

    whole = allocated(Dense(shape, device="meta", dtype=torch.bfloat16))
    assert whole == shape.allocated(1, 2)
    assert allocated(KV_STORAGES[name](shape, device="meta", dtype=torch.bfloat16)) <= most * whole


@pytest.mark.parametrize("name", KV_BITS)
def test_films_go_on_from_it_bit_for_bit(name: str, tmp_path: Path) -> None:
    engine = replace(tiny_engine(), storage=KV_STORAGES[name])
    stream, exact = tiny_stream(engine), tiny_stream(tiny_engine())
    before, true = film(stream, [FOX] * 4), film(exact, [FOX] * 4)
    assert before[0] == true[0], "the first chunk has no past"
    assert before[1] != true[1]
    assert stream.state.snapshot().nbytes < exact.state.snapshot().nbytes
    save_snapshot(stream.snapshot(), tmp_path / "s")
    fork, other = stream.fork(), tiny_stream(engine, seed=7)
    other.restore(load_snapshot(tmp_path / "s"))
    script = [FOX, WOLF, WOLF]
    assert film(fork, script) == film(other, script) == film(stream, script)


def test_it_is_a_setting() -> None:
    preset = apply_knobs(PRESETS["embedded"], {"kv_cache_dtype": "int8"})
    assert preset.kv_cache_dtype == "int8"
    assert apply_knobs(preset, {"kv_cache_dtype": "auto"}) == PRESETS["embedded"]
    assert make_policies(preset) == make_policies(PRESETS["embedded"])
    with pytest.raises(ValueError, match="use int8"):
        Quantised(replace(SHAPE, head_dim=3), 4)
