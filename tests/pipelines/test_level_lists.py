"""Chunks of video that begin at levels of their own, in every order of passes, against loops that know no order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from cache.buffers import Buffers
from cache.fifo import SinkWindow
from cache.positions import Absolute
from cache.switches import Keep
from cache.types import Entry, NoisePlan, View
from models.wan import CausalWanTransformer3DModel
from pipelines.engine import Engine
from pipelines.presets.base import Guidance, VideoEntry
from pipelines.streaming import Stream
from pipelines.types import Controls, Start
from schedulers.batch import StreamBatch
from schedulers.buffer import MovingBuffer
from schedulers.noise import Address, AddressedNoise
from schedulers.serial import Serial
from tests.reference import KeysAndValues, Past, reference_forward
from tests.tiny import (
    CHANNELS,
    FOX,
    HEIGHT,
    WIDTH,
    gap,
    tiny_autoencoder,
    tiny_engine,
    tiny_stream,
    tiny_transformer,
)

LEVELS = (700.0, 500.0, 300.0, 200.0)
SEED, WINDOW, SINK, CHUNKS = 4, 8, 2, 12

Begin = tuple[float, float, int | None]
"""Share of noise, level told, most passes."""

BEGINS: list[Begin] = [
    (0.8, 700.0, None),
    (0.6, 500.0, None),  # the released list would repeat 500
    (0.7, 601.0, None),
    (0.35, 250.0, None),
    (0.9, 1000.0, 2),
    (0.25, 150.0, None),  # no level of the plan is left
    (0.3, 200.0, None),
    (0.8, 700.0, 1),
    (0.8, 650.0, 3),
    (0.5, 500.5, None),
    (0.8, 700.0, None),
    (0.8, 700.0, None),
]


@pytest.fixture(scope="module")
def model() -> CausalWanTransformer3DModel:
    return tiny_transformer(num_layers=2)


@pytest.fixture(scope="module")
def exact() -> CausalWanTransformer3DModel:
    return tiny_transformer(dtype=torch.float64, num_layers=2)


def engine_of(model: CausalWanTransformer3DModel, plan: NoisePlan) -> Engine:
    cache = SinkWindow(WINDOW, SINK, keeps="level")
    return tiny_engine(
        model, plan=plan, cache=cache, position=Absolute(), switch=Keep(), autoencoder=tiny_autoencoder()
    )


def clip(frames: int) -> Tensor:
    return torch.randn(1, frames, CHANNELS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(9)).double()


def shoot(stream: Stream, begins: Sequence[Begin], controls: Controls = FOX) -> list[Tensor]:
    """Latents of the film made of the clip, each chunk beginning as it is told, and of what was left at the end."""
    made: list[Tensor] = []
    size = stream.engine.policies.plan.width
    latents = clip(size * len(begins)).to(stream.state.latents.ring.dtype)
    for share, level, steps in begins:
        frames = stream.entering
        start = Start(latents[:, frames.start : frames.stop], share, level, steps)
        chunk = stream.enter(controls, start, decode=False)
        made += [] if chunk is None else [stream.state.latents.get(chunk.latent)]
    while (chunk := stream.finish(controls, decode=False)) is not None:
        made.append(stream.state.latents.get(chunk.latent))
    return made


def noise_of(frames: range, level: float, purpose: str) -> Tensor:
    addresses = [Address(SEED, 0, frame, level, purpose) for frame in frames]
    return AddressedNoise().frames(addresses, (1, CHANNELS, HEIGHT, WIDTH)).double()


def by_hand(engine: Engine, levels: Sequence[float], size: int, begins: Sequence[Begin]) -> list[Tensor]:
    """Chunk after chunk through its own list; a level's memory holds the chunks that passed it."""
    model, sigma = engine.transformer, engine.policies.schedule.sigma
    text = engine.conditioner.embed(FOX.prompt).double()
    memory: list[dict[int, KeysAndValues]] = [{} for _ in levels]
    latents, out = clip(size * len(begins)), []
    for number, (share, first, steps) in enumerate(begins):
        frames = range(number * size, (number + 1) * size)
        lanes = [lane for lane, level in enumerate(levels) if lane and level < first]
        lanes = [0, *(lanes if steps is None else lanes[max(0, len(lanes) - steps + 1) :])]
        own = [first, *(levels[lane] for lane in lanes[1:])]
        assert all(high > low for high, low in pairwise(own))
        x = share * noise_of(frames, 1000.0, "initial") + (1 - share) * latents[:, frames.start : frames.stop]
        for lane, level, there in zip(lanes, own, (*own[1:], None), strict=True):
            known = sorted(memory[lane])  # the sink are the first that came, the window the last
            old = known if len(known) + size <= WINDOW else [*known[:SINK], *known[len(known) - WINDOW + SINK + size :]]
            past = None
            if old:
                parts = [[torch.stack([memory[lane][f][i][kv] for f in old], dim=1) for kv in (0, 1)] for i in (0, 1)]
                past = Past([(k, v) for k, v in parts], old)
            flow, keys = reference_forward(model, x, [level] * size, text, positions=frames, past=past)
            for index, frame in enumerate(frames):
                memory[lane][frame] = [(k[:, index], v[:, index]) for k, v in keys]
            x = x - sigma(level) * flow
            if there is not None:
                x = (1 - sigma(there)) * x + sigma(there) * noise_of(frames, there, "renoise")
        out.append(x)
    return out


# ------------------------------------------------------------------ the list of a chunk


def test_a_chunk_goes_on_with_the_levels_that_are_left() -> None:
    assert Entry(500.0).levels((700.0, 500.0, 300.0)) == (500.0, 300.0)
    assert Entry(501.0).levels((700.0, 500.0, 300.0)) == (501.0, 500.0, 300.0)
    assert Entry(1000.0).levels((700.0, 500.0)) == (1000.0, 500.0), "it stands in for the first"
    assert Entry(200.0).levels((700.0, 500.0, 300.0)) == (200.0,)
    assert Entry(650.0, steps=2).levels(LEVELS) == (650.0, 200.0)
    assert Entry(650.0, steps=1).levels(LEVELS) == (650.0,)
    assert Entry(650.0, steps=9).levels(LEVELS) == (650.0, 500.0, 300.0, 200.0)
    assert Entry().levels(LEVELS) == ()


# ------------------------------------------------------------------ T1, T2, T5, T11: the same film in every order


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 1), (2, 3), (3, 1), (4, 1), (4, 3)])
def test_rebuilt_lists_give_the_film_of_the_loops_by_hand(
    count: int, size: int, exact: CausalWanTransformer3DModel
) -> None:
    """T1 in float64, and T11: a film of n chunks has n."""
    levels = LEVELS[:count]
    plans: list[NoisePlan] = [StreamBatch(levels, chunk=size), Serial(levels, chunk=size, memory="level")]
    films = [shoot(tiny_stream(engine_of(exact, plan), seed=SEED, video=True), BEGINS) for plan in plans]
    expected = by_hand(engine_of(exact, plans[0]), levels, size, BEGINS)
    for made in films:
        assert len(made) == len(expected) == CHUNKS
        gaps = [gap(a, b) for a, b in zip(made, expected, strict=True)]
        assert max(gaps) < 1e-10, gaps
    usual = by_hand(engine_of(exact, plans[0]), levels, size, [BEGINS[0]] * CHUNKS)
    assert all(gap(a, b) > 1e-2 for a, b in zip(usual[1:4], expected[1:4], strict=True)), "the lists change nothing"


def test_in_float32_a_batch_of_rebuilt_lists_agrees_to_the_bit_with_one_chunk_at_a_time(
    model: CausalWanTransformer3DModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T2."""
    monkeypatch.setattr(Buffers, "joint", lambda *_: None)
    plans: list[NoisePlan] = [StreamBatch(LEVELS, chunk=1), Serial(LEVELS, chunk=1, memory="level")]
    films = [shoot(tiny_stream(engine_of(model, plan), seed=SEED, video=True), BEGINS) for plan in plans]
    assert all(torch.equal(a, b) for a, b in zip(*films, strict=True))


def test_a_batch_keeps_its_latency_whatever_levels_chunks_begin_at(model: CausalWanTransformer3DModel) -> None:
    stream = tiny_stream(engine_of(model, StreamBatch(LEVELS)), seed=SEED, video=True)
    latents = clip(CHUNKS).float()
    out = [stream.enter(FOX, Start(latents[:, [number]], *begin), decode=False) for number, begin in enumerate(BEGINS)]
    assert [chunk is not None for chunk in out] == [False] * 3 + [True] * 9
    assert [chunk.latent.start for chunk in out if chunk] == list(range(9))
    rest = [stream.finish(FOX, decode=False) for _ in range(4)]
    assert [chunk.latent.start for chunk in rest if chunk] == [9, 10, 11]
    assert rest[-1] is None
    assert stream.state.levels == ()


def test_passes_never_run_a_chunk_before_an_older_one_has_passed_that_level() -> None:
    plan, rng = StreamBatch(LEVELS), torch.Generator().manual_seed(0)
    cur, stand = 0, list[float]()
    passed: list[list[int]] = [[] for _ in LEVELS]
    for _ in range(300):
        level = float(torch.randint(100, 1000, (1,), generator=rng)) if torch.rand(1, generator=rng) < 0.8 else None
        for work in plan.passes(View(cur, 1, tuple(stand), entry=Entry(level))):
            stand += [0.0] * (max((row.frames.stop for row in work.rows), default=0) - cur - len(stand))
            left = list(work.leave)
            for row in work.rows:
                assert row.to[0] is None or row.levels[0] > row.to[0]
                passed[row.lane].append(row.frames.start)
                stand[row.frames.start - cur] = row.to[0] or 0.0
                left += row.emit
            assert len({row.lane for row in work.rows}) == len(work.rows)
            if left:
                assert left == [cur]
                assert stand.pop(0) == 0.0
                cur += 1
    assert all(lane == sorted(lane) for lane in passed)
    assert cur > 200


def test_a_joint_window_takes_no_pictures(model: CausalWanTransformer3DModel) -> None:
    engine = tiny_engine(
        model, plan=MovingBuffer(LEVELS), cache=SinkWindow(WINDOW, SINK), autoencoder=tiny_autoencoder()
    )
    with pytest.raises(ValueError, match="takes no video: choose a preset"):
        _ = tiny_stream(engine, video=True).entering


# ------------------------------------------------------------------ T18: what is in flight keeps its list


def test_another_level_changes_only_the_chunks_that_enter_with_it(model: CausalWanTransformer3DModel) -> None:
    """T18."""
    engine = engine_of(model, StreamBatch(LEVELS))
    before = [BEGINS[0]] * CHUNKS
    usual = shoot(tiny_stream(engine, seed=SEED, video=True), before)
    for other in ((0.6, 500.0, None), (0.8, 700.0, 2)):
        changed = shoot(tiny_stream(engine, seed=SEED, video=True), [*before[:6], *[other] * 6])
        assert all(torch.equal(a, b) for a, b in zip(usual[:6], changed[:6], strict=True))
        assert all(gap(a, b) > 1e-2 for a, b in zip(usual[6:], changed[6:], strict=True))


# ------------------------------------------------------------------ T19: guidance


def guided(engine: Engine, kind: Guidance, scale: float, delta: float = 1.0) -> Engine:
    return replace(engine, policies=replace(engine.policies, guidance=kind, guidance_scale=scale, guidance_delta=delta))


def test_guidance_of_one_is_none_and_costs_nothing(model: CausalWanTransformer3DModel) -> None:
    engine = engine_of(model, StreamBatch(LEVELS))
    usual = shoot(tiny_stream(engine, seed=SEED, video=True), BEGINS)
    for kind in ("full", "residual-self", "residual-once"):
        made = shoot(tiny_stream(guided(engine, kind, 1.0), seed=SEED, video=True), BEGINS)
        assert all(torch.equal(a, b) for a, b in zip(usual, made, strict=True))


def test_every_kind_of_guidance_runs_as_many_rows_as_it_says(model: CausalWanTransformer3DModel) -> None:
    rows: list[int] = []
    hook = model.register_forward_pre_hook(lambda _module, given: rows.append(given[0].shape[0]))
    engine, counts = engine_of(model, StreamBatch(LEVELS)), dict[str, int]()
    for kind in ("full", "residual-self", "residual-once"):
        stream = tiny_stream(guided(engine, kind, 1.5), seed=SEED, video=True)
        latents = clip(CHUNKS).float()
        for number in range(8):
            rows.clear()
            stream.enter(FOX, Start(latents[:, [number]], 0.8, 700.0), decode=False)
        counts[kind] = sum(rows)
    hook.remove()
    assert counts == {"full": 2 * 4, "residual-self": 4, "residual-once": 4 + 1}


def witnessed(engine: Engine) -> list[tuple[int, float, Tensor, Tensor]]:
    """Lane, sigma, input and clean estimate of every row of a film of one-level-after-another chunks."""
    seen: list[tuple[int, float, Tensor, Tensor]] = []
    stream = tiny_stream(engine, seed=SEED, video=True)

    def witness(_work: object, row: object, x: Tensor, _flow: Tensor, x0: Tensor | None, _store: object) -> None:
        assert x0 is not None
        level = row.levels[0]  # type: ignore[attr-defined]
        seen.append((row.lane, engine.policies.schedule.sigma(level), x.clone(), x0.clone()))  # type: ignore[attr-defined]

    stream._passes.observer = witness
    shoot(stream, [(0.8, 800.0, None)] * 3)
    return seen


def test_residual_guidance_pushes_away_from_the_video_with_the_noise_that_travelled(
    exact: CausalWanTransformer3DModel,
) -> None:
    """T19: x = (1 - s) x* + s r at every level, r made of fresh noise and of how far the estimate went from x*."""
    scale, levels = 1.7, (700.0, 500.0, 300.0)
    engine = engine_of(exact, Serial(levels, chunk=1, memory="level"))
    plain = tiny_stream(engine, seed=SEED, video=True)
    flows: list[Tensor] = []
    plain._passes.observer = lambda _work, _row, _x, flow, *_: flows.append(flow.clone())
    latents = clip(3)
    plain.enter(FOX, Start(latents[:, :1], 0.8, 800.0), decode=False)
    seen = witnessed(guided(engine, "residual-self", scale))[:3]
    source, sigma0 = latents[:, :1], seen[0][1]
    r = (seen[0][2] - (1 - sigma0) * source) / sigma0
    # the first pass: the flow towards the words, away from r - x*
    expected = seen[0][2] - sigma0 * ((r - source) + scale * (flows[0] - (r - source)))
    assert gap(seen[0][3], expected) < 1e-10
    for number, (before, after) in enumerate(pairwise(seen), start=1):
        sigma = after[1]
        fresh = noise_of(range(1), {1: 500.0, 2: 300.0}[number], "renoise")
        r = fresh + (1 - sigma) / sigma * (before[3] - source)
        assert gap(after[2], (1 - sigma) * source + sigma * r) < 1e-12
    nothing = witnessed(guided(engine, "residual-self", scale, delta=0.0))
    assert gap(nothing[0][3], seen[0][2] - sigma0 * scale * flows[0]) < 1e-10, "without delta only the flow grows"


def test_residual_once_begins_as_full_guidance_does(exact: CausalWanTransformer3DModel) -> None:
    """T19: the first pass of a chunk is that of full guidance; later ones differ."""
    engine = engine_of(exact, Serial((700.0, 500.0), chunk=1, memory="level"))
    full, once, own = (witnessed(guided(engine, kind, 1.7))[:2] for kind in ("full", "residual-once", "residual-self"))
    assert gap(full[0][3], once[0][3]) < 1e-10
    assert gap(full[1][3], once[1][3]) > 1e-3
    assert gap(own[0][3], once[0][3]) > 1e-3


def test_residual_guidance_is_refused_where_there_is_no_video(model: CausalWanTransformer3DModel) -> None:
    engine = guided(engine_of(model, StreamBatch(LEVELS)), "residual-self", 1.5)
    for video in (False, True):
        with pytest.raises(ValueError, match="pushes away from a video, and there is none"):
            tiny_stream(engine, video=video).next_chunk(FOX, decode=False)


# ------------------------------------------------------------------ anchored noise


def test_with_anchored_noise_a_still_video_gives_every_chunk_the_same_input(
    model: CausalWanTransformer3DModel,
) -> None:
    engine = engine_of(model, Serial(LEVELS[:2], chunk=2, memory="level"))
    inputs: dict[bool, list[Tensor]] = {}
    for anchored in (True, False):
        policies = replace(engine.policies, video=VideoEntry(anchored=anchored))
        stream = tiny_stream(replace(engine, policies=policies), seed=SEED, video=True)
        seen = inputs.setdefault(anchored, [])
        stream._passes.observer = lambda _work, row, x, *_, seen=seen: seen.append(x) if not row.lane else None
        still = clip(2).float()
        for _ in range(3):
            stream.enter(FOX, Start(still, 0.8, 700.0), decode=False)
    assert all(torch.equal(x, inputs[True][0]) for x in inputs[True])
    assert torch.equal(inputs[True][0], inputs[False][0]), "the first chunk's noise is what anchors"
    assert gap(inputs[False][0], inputs[False][1]) > 0.1
    frames = inputs[True][0] - 0.2 * clip(2).float()
    assert gap(frames[:, :1], frames[:, 1:]) > 0.1, "frames of one chunk differ"
