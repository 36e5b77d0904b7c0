"""Several chunks at once, a memory for each noise level: the same film as one chunk at a time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cache.buffers import Buffers
from cache.fifo import SinkWindow
from cache.positions import Absolute, SlotIndex
from cache.switches import Keep
from cache.types import CachePolicy, NoisePlan, PositionPolicy
from models.wan import CausalWanTransformer3DModel
from pipelines.build import make_policies
from pipelines.engine import Engine
from pipelines.presets import PRESETS
from pipelines.streaming import Stream
from pipelines.types import Controls, Transition
from schedulers.batch import StreamBatch
from schedulers.noise import Address, AddressedNoise
from schedulers.serial import Serial
from tests.reference import KeysAndValues, Past, reference_forward
from tests.tiny import CHANNELS, FOX, HEIGHT, WIDTH, WOLF, film, gap, tiny_engine, tiny_stream, tiny_transformer

LEVELS = (1000.0, 750.0, 500.0, 250.0)
SEED, WINDOW, SINK = 4, 8, 2


@pytest.fixture(scope="module")
def model() -> CausalWanTransformer3DModel:
    return tiny_transformer(num_layers=2)


@pytest.fixture(scope="module")
def exact() -> CausalWanTransformer3DModel:
    return tiny_transformer(dtype=torch.float64, num_layers=2)


def engine_of(
    model: CausalWanTransformer3DModel,
    plan: NoisePlan,
    cache: CachePolicy | None = None,
    position: PositionPolicy | None = None,
) -> Engine:
    cache = cache or SinkWindow(WINDOW, SINK, keeps="level")
    return tiny_engine(model, plan=plan, cache=cache, position=position or Absolute(), switch=Keep())


def chunks_of(engine: Engine, script: Sequence[Controls]) -> list[Tensor]:
    """The emitted latents of each chunk."""
    stream, out = tiny_stream(engine, seed=SEED), []
    for controls in script:
        chunk = stream.next_chunk(controls, decode=False)
        out.append(stream.state.latents.get(chunk.latent))
    return out


def noise_of(frames: range, level: float, purpose: str) -> Tensor:
    addresses = [Address(SEED, 0, frame, level, purpose) for frame in frames]
    return AddressedNoise().frames(addresses, (1, CHANNELS, HEIGHT, WIDTH)).double()


def level_by_level(
    engine: Engine, levels: Sequence[float], sizes: Sequence[int], *, remember: bool = True
) -> list[Tensor]:
    """One chunk after the other; pass i of a chunk sees what pass i of earlier chunks left, in lists of frames."""
    model, sigma = engine.transformer, engine.policies.schedule.sigma
    text = engine.conditioner.embed(FOX.prompt).double()
    memory: list[dict[int, KeysAndValues]] = [{} for _ in levels]
    out, start = [], 0
    for size in sizes:
        frames = range(start, start + size)
        x = noise_of(frames, levels[0], "initial")
        for i, level in enumerate(levels):
            old = [f for f in range(start) if f < SINK or f >= start + size - (WINDOW - SINK)] if remember else []
            past = None
            if old:
                layers = [
                    (
                        torch.stack([memory[i][f][layer][0] for f in old], dim=1),
                        torch.stack([memory[i][f][layer][1] for f in old], dim=1),
                    )
                    for layer in range(len(model.blocks))
                ]
                past = Past(layers, old)
            flow, keys = reference_forward(model, x, [level] * size, text, positions=frames, past=past)
            for index, frame in enumerate(frames):
                memory[i][frame] = [(k[:, index], v[:, index]) for k, v in keys]
            x0 = x - sigma(level) * flow
            if i + 1 < len(levels):
                there = sigma(levels[i + 1])
                x = (1 - there) * x0 + there * noise_of(frames, levels[i + 1], "renoise")
        out.append(x0)
        start = frames.stop
    return out


# ------------------------------------------------------------------ T1, T2, T5: the same film


@pytest.mark.parametrize("first", [None, 2])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_stream_batch_equals_one_chunk_after_the_other_with_a_memory_for_each_level(
    count: int, size: int, first: int | None, exact: CausalWanTransformer3DModel
) -> None:
    """T1, float64 against loops that keep every frame's keys."""
    levels = LEVELS[:count]
    engine = engine_of(exact, StreamBatch(levels, chunk=size, first_chunk=first))
    sizes = [first or size] + [size] * 11
    expected = level_by_level(engine, levels, sizes)
    ours = chunks_of(engine, [FOX] * 12)
    assert [chunk.shape[1] for chunk in ours] == sizes
    assert all(gap(a, b) < 1e-10 for a, b in zip(ours, expected, strict=True))
    alone = level_by_level(engine, levels, sizes[:2], remember=False)
    assert gap(alone[1], expected[1]) > 1e-2, "the memory does nothing"


@pytest.mark.parametrize("first", [None, 2])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_in_float32_the_two_orders_agree_to_the_bit(
    count: int, size: int, first: int | None, model: CausalWanTransformer3DModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T2. With rows through the model one by one every shape is the same in both."""
    monkeypatch.setattr(Buffers, "joint", lambda *_: None)
    batch = engine_of(model, StreamBatch(LEVELS[:count], chunk=size, first_chunk=first))
    serial = engine_of(model, Serial(LEVELS[:count], chunk=size, first_chunk=first, memory="level"))
    ours = film(tiny_stream(batch, seed=SEED), [FOX] * 12)
    assert film(tiny_stream(serial, seed=SEED), [FOX] * 12) == ours
    assert len(set(ours)) == 12


@pytest.mark.parametrize("films", [1, 2])
@pytest.mark.parametrize("position", [SlotIndex(), Absolute()])
def test_rows_that_see_equally_much_share_a_forward(
    films: int, position: PositionPolicy, model: CausalWanTransformer3DModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another batch size is another kernel, so equal to a tolerance only; absolute positions differ from row to row."""
    batches: list[int] = []
    hook = model.register_forward_pre_hook(lambda _module, given: batches.append(given[0].shape[0]))
    engine = engine_of(model, StreamBatch(LEVELS, chunk=1), SinkWindow(WINDOW, SINK, keeps="level"), position)
    together = tiny_stream(engine, seed=SEED, batch=films)
    ours = [together.next_chunk(FOX, decode=False) and together.state.latents.ring.clone() for _ in range(14)]
    hook.remove()
    assert batches[0] == films, "the batch fills up row by row"
    assert batches[-4:] == [films * len(LEVELS)] * 4, "a full batch is one forward"
    single = tiny_stream(engine, seed=SEED)  # films of a batch count on from the first
    first = [single.next_chunk(FOX, decode=False) and single.state.latents.ring.clone() for _ in range(14)]
    assert max(gap(a[:1], b) for a, b in zip(ours, first, strict=True)) < 1e-4, "a film in a batch is another film"
    monkeypatch.setattr(Buffers, "joint", lambda *_: None)
    alone = tiny_stream(engine, seed=SEED, batch=films)
    theirs = [alone.next_chunk(FOX, decode=False) and alone.state.latents.ring.clone() for _ in range(14)]
    assert max(gap(a, b) for a, b in zip(ours, theirs, strict=True)) < 1e-4
    guided = replace(engine, policies=replace(engine.policies, guidance_scale=2.0))
    apart = chunks_of(guided, [FOX] * 14)
    monkeypatch.undo()
    assert max(gap(a, b) for a, b in zip(chunks_of(guided, [FOX] * 14), apart, strict=True)) < 1e-3


def test_with_one_level_all_orders_are_one(model: CausalWanTransformer3DModel) -> None:
    """T5."""
    plans: list[tuple[NoisePlan, Any]] = [
        (StreamBatch(LEVELS[:1], chunk=3), "level"),
        (Serial(LEVELS[:1], chunk=3, memory="level"), "level"),
        (Serial(LEVELS[:1], chunk=3, memory="last"), "last"),
    ]
    films = [
        film(tiny_stream(engine_of(model, plan, SinkWindow(WINDOW, SINK, keeps=keeps)), seed=SEED), [FOX] * 6 + [WOLF])
        for plan, keeps in plans
    ]
    assert films[0] == films[1] == films[2]
    last, level = (
        engine_of(model, Serial(LEVELS[:2], chunk=3, memory=keeps), SinkWindow(WINDOW, SINK, keeps=keeps))
        for keeps in ("last", "level")
    )
    assert film(tiny_stream(last), [FOX] * 3) != film(tiny_stream(level), [FOX] * 3), "with two they are not"


def test_every_pass_works_on_all_levels_at_once_and_a_chunk_leaves_with_each(
    model: CausalWanTransformer3DModel,
) -> None:
    rows: list[list[int]] = []
    stream = tiny_stream(
        engine_of(model, StreamBatch(LEVELS, chunk=1)),
        observer=lambda work, row, *_: rows.append([each.frames.start for each in work.rows]) if not row.lane else None,
    )
    for _ in range(3):
        stream.next_chunk(FOX, decode=False)
    assert rows == [[0], [1, 0], [2, 1, 0], [3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2]], "no row runs on zeros"


# ------------------------------------------------------------------ T4: not the same model as clean memory


def test_a_stream_batch_over_clean_memory_is_refused_and_is_another_model(model: CausalWanTransformer3DModel) -> None:
    """T4."""
    preset = PRESETS["longlive"]
    batch = replace(preset, schedule=replace(preset.schedule, plan="stream-batch"), switch=Keep())
    with pytest.raises(ValueError, match="needs level memory with a cache policy that keeps clean memory"):
        make_policies(batch)
    make_policies(replace(batch, cache=SinkWindow(window=12, sink=3, keeps="level")))
    level = chunks_of(engine_of(model, StreamBatch(LEVELS, chunk=3)), [FOX] * 3)
    clean = chunks_of(engine_of(model, Serial(LEVELS, chunk=3), SinkWindow(WINDOW, SINK)), [FOX] * 3)
    assert gap(level[0], clean[0]) == 0.0, "the first chunk remembers nothing"
    assert all(gap(a, b) > 1e-3 for a, b in zip(level[1:], clean[1:], strict=True))


# ------------------------------------------------------------------ T10, T23: state


def test_a_restart_at_any_tick_gives_the_same_film(model: CausalWanTransformer3DModel) -> None:
    """T10."""
    engine = engine_of(model, StreamBatch(LEVELS, chunk=1, first_chunk=2))
    script = [FOX] * 5 + [WOLF] * 5
    whole, snapshots, hashes = tiny_stream(engine, seed=SEED), [], []
    for controls in script:
        snapshots.append(whole.snapshot())
        hashes += film(whole, [controls])
    for start in (1, random.Random(0).randrange(2, 9)):
        again = tiny_stream(engine, seed=99)
        film(again, [WOLF] * 2)
        again.restore(snapshots[start])
        assert len(again.state.levels) == 3, "no chunk was on its way"
        assert film(again, script[start:]) == hashes[start:]
    branch = whole.fork()
    assert film(branch, [FOX] * 2) == film(whole, [FOX] * 2)


def test_two_sessions_in_turns_are_the_sessions_alone(model: CausalWanTransformer3DModel) -> None:
    """T23."""
    engine = engine_of(model, StreamBatch(LEVELS, chunk=1))
    scripts = ([FOX] * 3 + [WOLF] * 4, [WOLF] * 7)
    alone = [film(tiny_stream(engine, seed=seed), script) for seed, script in enumerate(scripts)]
    streams: list[Stream] = [tiny_stream(engine, seed=seed) for seed in (0, 1)]
    turns = [[film(stream, [script[i]])[0] for stream, script in zip(streams, scripts, strict=True)] for i in range(7)]
    assert [list(column) for column in zip(*turns, strict=True)] == alone
    assert not set(alone[0]) & set(alone[1])


def test_a_cut_empties_all_lanes_and_the_batch_fills_again(exact: CausalWanTransformer3DModel) -> None:
    """After it the film is what a film begun at that frame would be."""
    engine = engine_of(exact, StreamBatch(LEVELS[:3], chunk=1))
    stream = tiny_stream(engine, seed=SEED)
    film(stream, [FOX] * 4)
    stream.next_chunk(Controls(WOLF.prompt, Transition("cut")), decode=False)
    assert [[slot.frame for slot in store.entries] for store in stream.state.kv] == [[4, 5, 6], [4, 5], [4]]
    text = engine.conditioner.embed(WOLF.prompt).double()
    x = noise_of(range(4, 5), LEVELS[0], "initial")
    for here, there in zip(LEVELS[:3], (*LEVELS[1:3], None), strict=True):
        sigma = engine.policies.schedule.sigma
        flow, _ = reference_forward(exact, x, [here], text, positions=[4])
        x = x - sigma(here) * flow
        if there is not None:
            x = (1 - sigma(there)) * x + sigma(there) * noise_of(range(4, 5), there, "renoise")
    assert gap(stream.state.latents.get(range(4, 5)), x) < 1e-10


def test_positions_within_the_memory_agree_with_absolute_ones_until_a_frame_is_forgotten(
    exact: CausalWanTransformer3DModel,
) -> None:
    """T14, per level: forgetting happens in every lane alike."""
    plan = StreamBatch(LEVELS[:2], chunk=1)
    absolute = engine_of(exact, plan)
    slots = replace(absolute, policies=replace(absolute.policies, position=SlotIndex()))
    ours, theirs = chunks_of(slots, [FOX] * 12), chunks_of(absolute, [FOX] * 12)
    assert all(gap(a, b) < 1e-9 for a, b in zip(ours[:WINDOW], theirs[:WINDOW], strict=True))
    assert gap(ours[-1], theirs[-1]) > 1e-2
