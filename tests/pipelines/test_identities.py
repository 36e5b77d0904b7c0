"""What must be equal whatever the weights are: the engine against loops written a second time (tests/reference.py).

Every identity has a guard beside it: with the feature off, the numbers differ by more than 1e-2 (where not, the test
says so), so no constant, memoryless or deaf model passes.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from cache.kv import KVStore
from cache.positions import Absolute, SlotIndex
from cache.switches import Keep, Recache
from cache.types import Pass, Row, SlotRange, Slots
from models.taehv import AutoencoderTAEHV
from models.wan import CausalWanTransformer3DModel
from pipelines.engine import Engine
from pipelines.streaming import Stream
from pipelines.types import Controls, Transition
from schedulers.noise import Address, AddressedNoise
from tests.reference import KeysAndValues, Past, block_mask, reference_forward
from tests.tiny import (
    CHANNELS,
    FOX,
    WOLF,
    ListeningNoise,
    film,
    gap,
    tiny_autoencoder,
    tiny_engine,
    tiny_stream,
    tiny_transformer,
)

LEVELS = (1000.0, 600.0)


@dataclass(frozen=True, slots=True)
class Seen:
    """One pass as the engine ran it; `frames`, `keys` and `values` are the memory after it, per layer."""

    kind: str
    row: Row
    x: Tensor
    flow: Tensor
    x0: Tensor | None
    frames: list[int]
    memory: KeysAndValues


class Witness:
    """An observer that keeps everything."""

    def __init__(self) -> None:
        self.passes: list[Seen] = []

    def __call__(self, work: Pass, row: Row, x: Tensor, flow: Tensor, x0: Tensor | None, store: KVStore) -> None:
        frames, memory = remembered(store)
        self.passes.append(Seen(work.kind, row, x.clone(), flow.clone(), x0, frames, memory))

    def of(self, kind: str) -> list[Seen]:
        return [seen for seen in self.passes if seen.kind == kind]


def remembered(store: KVStore) -> tuple[list[int], KeysAndValues]:
    """Frame numbers and each layer's raw keys and values of the committed memory."""
    frames = [slot.frame for slot in store.entries]
    layers = [store.logical(layer) for layer in range(store.shape.layers)]
    return frames, [(k[:, : len(frames)].clone(), v[:, : len(frames)].clone()) for _, k, v in layers]


def text_of(engine: Engine, controls: Controls) -> Tensor:
    return engine.conditioner.embed(controls.prompt).double()


def watched(engine: Engine, controls: Sequence[Controls]) -> tuple[Stream, Witness]:
    witness = Witness()
    stream = tiny_stream(engine, seed=4, observer=witness)
    film(stream, controls)
    return stream, witness


# ------------------------------------------------------------------ T3: the memory


def test_streaming_with_clean_memory_equals_recomputing_all_frames_under_a_block_mask() -> None:
    """T3. Chunk c's passes see history at t=0 and themselves at their level, nothing else."""
    engine, noise, witness = tiny_engine(dtype=torch.float64, window=12, sink=0), ListeningNoise(), Witness()
    stream = tiny_stream(engine, seed=4, noise=noise, observer=witness)
    film(stream, [FOX] * 4)
    model, text, schedule = engine.transformer, text_of(engine, FOX), engine.policies.schedule

    draws, passes = iter(noise.given), iter(witness.of("denoise"))
    history = torch.zeros(1, 0, *stream.state.latents.get(range(1)).shape[2:], dtype=torch.float64)
    felt = 0.0
    for chunk in range(4):
        x = x0 = next(draws).double()
        for step, level in enumerate(LEVELS):
            levels = [0.0] * (3 * chunk) + [level] * 3
            everything = torch.cat([history, x], dim=1)
            flow, _ = reference_forward(model, everything, levels, text, allowed=block_mask(3 * chunk + 3, 3))
            x0 = x - schedule.sigma(level) * flow[:, -3:]
            seen = next(passes)
            assert seen.row.frames == range(3 * chunk, 3 * chunk + 3)
            assert seen.x0 is not None
            assert gap(seen.flow, flow[:, -3:]) < 1e-9
            assert gap(seen.x0, x0) < 1e-9
            if chunk:
                alone, _ = reference_forward(model, x, [level] * 3, text, positions=seen.row.frames)
                felt = max(felt, gap(alone, flow[:, -3:]))
            if step + 1 < len(LEVELS):
                sigma = schedule.sigma(LEVELS[step + 1])
                x = (1 - sigma) * x0 + sigma * next(draws).double()
        history = torch.cat([history, x0], dim=1)
    assert felt > 1e-2, "the history does nothing"
    assert next(draws, None) is None
    _, keys = reference_forward(model, history, [0.0] * 12, text, allowed=block_mask(12, 3))
    frames, memory = remembered(stream.state.kv[0])
    assert frames == list(range(12))
    for (k, v), (expected_k, expected_v) in zip(memory, keys, strict=True):
        assert gap(k, expected_k) < 1e-9
        assert gap(v, expected_v) < 1e-9


def test_guidance_extrapolates_from_no_prompt_and_the_memory_keeps_the_prompt() -> None:
    """Classifier-free guidance: nothing + scale * (prompt - nothing), in denoising passes only."""
    plain = tiny_engine(dtype=torch.float64)
    engine = replace(plain, policies=replace(plain.policies, guidance_scale=2.5))
    stream, witness = watched(engine, [FOX] * 2)
    model, text = engine.transformer, text_of(engine, FOX)
    nothing = torch.zeros_like(text)
    first, clean = witness.passes[0], witness.of("clean")[0]
    told, _ = reference_forward(model, first.x, [1000.0] * 3, text)
    untold, _ = reference_forward(model, first.x, [1000.0] * 3, nothing)
    assert gap(first.flow, untold + 2.5 * (told - untold)) < 1e-9
    assert gap(first.flow, told) > 1e-2
    _, keys = reference_forward(model, clean.x, [0.0] * 3, text)
    for (k, v), (expected_k, expected_v) in zip(clean.memory, keys, strict=True):
        assert gap(k, expected_k) < 1e-9
        assert gap(v, expected_v) < 1e-9
    second = witness.of("denoise")[2]
    past = Past(clean.memory, range(3))
    flows = [
        reference_forward(model, second.x, [1000.0] * 3, words, positions=range(3, 6), past=past)[0]
        for words in (text, nothing)
    ]
    assert gap(second.flow, flows[1] + 2.5 * (flows[0] - flows[1])) < 1e-9
    assert stream.state.text.version == 1


# ------------------------------------------------------------------ T10: noise has an address


def test_the_order_of_draws_does_not_matter() -> None:
    """T10."""
    frames = (0, 1, 2, 64, 1024, 2**32)  # far apart too: noise that repeats after a while would pass otherwise
    addresses = [Address(3, 0, f, level, p) for f in frames for level in LEVELS for p in ("initial", "renoise")]
    noise, shape = AddressedNoise(), (2, CHANNELS, 4, 6)
    straight = noise.frames(addresses, shape)
    order = random.Random(1).sample(range(len(addresses)), len(addresses))
    for index, shuffled in zip(order, noise.frames([addresses[i] for i in order], shape).unbind(1), strict=True):
        assert torch.equal(shuffled, straight[:, index])
    flat = straight.transpose(0, 1).flatten(0, 1)
    assert len({row.numpy().tobytes() for row in flat}) == len(flat), "two addresses share their noise"
    apart = (flat.flatten(1) @ flat.flatten(1).T / flat[0].numel()).fill_diagonal_(0)
    assert float(apart.abs().max()) < 0.6, "draws are correlated"


def test_a_restart_from_a_snapshot_at_any_chunk_gives_the_same_film() -> None:
    """T10."""
    engine = tiny_engine()
    script = [FOX] * 4 + [WOLF] * 6
    whole, snapshots = tiny_stream(engine, seed=9), []
    hashes = []
    for controls in script:
        snapshots.append(whole.snapshot())
        hashes.append(whole.next_chunk(controls, decode=False).sha256)
    at = random.Random(0).randrange(1, len(script))
    for start in (at, 4):
        again = tiny_stream(engine, seed=77)
        again.restore(snapshots[start])
        assert film(again, script[start:]) == hashes[start:]
    assert film(tiny_stream(engine, seed=77), script[:2]) != hashes[:2], "the seed does nothing"


# ------------------------------------------------------------------ T12, T13: the autoencoder


def split(total: int, sizes: Sequence[int]) -> list[range]:
    out: list[range] = []
    for index in range(total):
        start = out[-1].stop if out else 0
        if start == total:
            break
        out.append(range(start, min(total, start + sizes[index % len(sizes)])))
    return out


def latents_of(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(1, count, CHANNELS, 3, 4, generator=torch.Generator().manual_seed(6)).to(dtype)


def decoded(autoencoder: AutoencoderTAEHV, latents: Tensor, sizes: Sequence[int]) -> Tensor:
    state, parts = autoencoder.init_decode_state(1, 3, 4), []
    for part in split(latents.shape[1], sizes):
        pixels, state = autoencoder.decode_stream(latents[:, part.start : part.stop], state)
        parts.append(pixels)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("sizes", [(1,), (3,), (2, 1, 5), (1, 3, 3)])
@pytest.mark.parametrize("upsample", ["nearest", "shuffle", "together"])
def test_decoding_by_chunks_equals_decoding_the_whole_clip(sizes: Sequence[int], upsample: str) -> None:
    """T12."""
    autoencoder = tiny_autoencoder(upsample=upsample).double()
    latents = latents_of(11)
    whole = autoencoder.decode(latents)
    assert whole.shape[1] == 41
    assert float(((whole > 0) & (whole < 1)).double().mean()) > 0.05
    assert gap(decoded(autoencoder, latents, sizes), whole) < 1e-10
    assert gap(decoded(autoencoder, latents, sizes), whole) < 1e-10, "a fresh stream remembers the last one"
    forgetful = torch.cat(
        [autoencoder.decode(latents[:, p.start : p.stop])[:, : 4 * len(p) - 3] for p in split(11, (1,))], dim=1
    )
    assert gap(forgetful[:, 1:2], whole[:, 4:5]) > 1e-2, "the memory does nothing"


@pytest.mark.parametrize("sizes", [(0,), (2,), (1, 3)])
def test_encoding_by_chunks_equals_encoding_the_whole_clip(sizes: Sequence[int]) -> None:
    """T12. The first call takes one pixel frame more than a multiple of four."""
    autoencoder = tiny_autoencoder().double()
    pixels = torch.rand(1, 33, 3, 24, 32, generator=torch.Generator().manual_seed(8)).double()
    whole = autoencoder.encode(pixels, pad="start")
    state, parts, at, call = autoencoder.init_encode_state(1, 3, 4), [], 0, 0
    while at < 33:
        groups = sizes[call % len(sizes)]
        count = 4 * max(1, groups) if call else 4 * groups + 1
        latents, state = autoencoder.encode_stream(pixels[:, at : at + count], state)
        parts.append(latents)
        at, call = at + count, call + 1
    assert gap(torch.cat(parts, dim=1), whole) < 1e-10
    assert gap(autoencoder.encode(pixels[:, 29:])[:, -1:], whole[:, -1:]) > 1e-2, "the memory does nothing"


def test_the_decoder_state_never_grows() -> None:
    """T12, over 200 chunks."""
    autoencoder = tiny_autoencoder()
    state = autoencoder.init_decode_state(1, 3, 4)
    shapes = [tensor.shape for tensor in state]
    latents = latents_of(2, torch.float32)
    with torch.inference_mode():
        for chunk in range(200):
            pixels, state = autoencoder.decode_stream(latents, state)
            assert pixels.shape[1] == (8 if chunk else 5)
            assert [tensor.shape for tensor in state] == shapes
    assert int(state[0]) == 400


def test_a_finite_context_is_exact_only_when_it_is_as_long_as_the_memory_reaches() -> None:
    """T13. With three blocks a stage: 3 + 3 latents, and 3 halves of one."""
    autoencoder = tiny_autoencoder(decoder_blocks=(3, 3, 3)).double()
    latents = latents_of(16)
    whole = autoencoder.decode(latents)

    def windowed(context: int) -> Tensor:
        parts = [whole[:, :1]]
        for latent in range(1, 16):
            first = max(0, latent - context)
            parts.append(autoencoder.decode_raw(latents[:, first : latent + 1])[:, -4:].clamp(0, 1))
        return torch.cat(parts, dim=1)

    assert gap(windowed(8), whole) < 1e-10
    assert gap(windowed(3), whole) > 1e-4
    assert gap(windowed(1), whole) > gap(windowed(3), whole)


# ------------------------------------------------------------------ T14: positions


@dataclass(frozen=True, slots=True)
class Shifted:
    """Absolute positions, all of them later by `by`."""

    by: int

    def place(self, row: Row, ranges: Sequence[SlotRange], slots: Slots) -> tuple[list[int], list[int]]:
        queries, keys = Absolute().place(row, ranges, slots)
        return [p + self.by for p in queries], [p + self.by for p in keys]


@dataclass(frozen=True, slots=True)
class QueriesShifted:
    """Queries (and own keys) moved away from the memory."""

    by: int

    def place(self, row: Row, ranges: Sequence[SlotRange], slots: Slots) -> tuple[list[int], list[int]]:
        queries, keys = Absolute().place(row, ranges, slots)
        queries = [p + self.by for p in queries]
        return queries, keys[: -len(queries)] + queries


def ends(engine: Engine, chunks: int) -> list[Tensor]:
    """The clean latents of each chunk."""
    _, witness = watched(engine, [FOX] * chunks)
    return [seen.x for seen in witness.of("clean")]


def test_slot_positions_equal_absolute_ones_until_a_frame_is_forgotten() -> None:
    """T14."""
    model = tiny_transformer(dtype=torch.float64)
    absolute = ends(tiny_engine(model, window=9, position=Absolute()), 5)
    slots = ends(tiny_engine(model, window=9, position=SlotIndex()), 5)
    for chunk in range(3):
        assert gap(slots[chunk], absolute[chunk]) < 1e-9
    assert gap(slots[4], absolute[4]) > 1e-2


def test_a_million_frames_later_nothing_is_different() -> None:
    """T14. Only distances count, and float64 angles keep them; one bit in 1e16 of an angle of 1e6 is 1e-10."""
    model = tiny_transformer(dtype=torch.float64)
    here = ends(tiny_engine(model, position=Absolute()), 5)
    there = ends(tiny_engine(model, position=Shifted(10**6)), 5)
    assert all(gap(a, b) < 1e-7 for a, b in zip(here, there, strict=True))
    first = [watched(tiny_engine(model, position=Shifted(by)), [FOX])[1].passes[0].flow for by in (0, 10**6)]
    assert gap(first[0], first[1]) < 1e-9
    moved = ends(tiny_engine(model, position=QueriesShifted(5)), 5)
    assert gap(moved[1], here[1]) > 1e-2, "positions do nothing"


@pytest.mark.slow
def test_two_thousand_frames_run() -> None:
    """T14. Tables of the released systems end at position 1024."""
    model = tiny_transformer(num_layers=1, num_attention_heads=1, attention_head_dim=12, ffn_dim=8)
    engine = tiny_engine(model, levels=(1000.0,), chunk=10, window=24, sink=1, position=Absolute())
    stream = Stream(engine, height=2, width=2)
    hashes = film(stream, [FOX] * 200)
    assert stream.state.cur == 2000
    assert len(set(hashes)) == 200
    assert [slot.frame for slot in stream.state.kv[0].entries] == [0, *range(1977, 2000)]
    assert torch.isfinite(stream.state.latents.ring).all()


# ------------------------------------------------------------------ T15: slots


def test_slots_hold_what_a_deque_would() -> None:
    """T15. Frame numbers, and the very keys that each frame's clean pass produced."""
    window, sink = 8, 2
    written: dict[int, Tensor] = {}
    kept, recent = [], deque[int](maxlen=window - sink)

    def note(work: Pass, row: Row, _x: Tensor, _flow: Tensor, _x0: Tensor | None, store: KVStore) -> None:
        if work.kind == "clean":
            staged = store._staged[0, -1].unflatten(1, (store.shape.own, -1))
            written.update({frame: staged[:, i].clone() for i, frame in enumerate(row.frames)})

    stream = tiny_stream(tiny_engine(levels=(1000.0,), window=window, sink=sink), observer=note)
    for _ in range(50):
        chunk = stream.next_chunk(FOX, decode=False)
        for frame in chunk.latent:
            if len(kept) < sink:
                kept.append(frame)
            else:
                recent.append(frame)
        frames, keys, _ = stream.state.kv[0].logical(2)
        assert frames[: len(kept) + len(recent)] == [*kept, *recent]
        for index, frame in enumerate([*kept, *recent]):
            assert torch.equal(keys[:, index], written[frame])
    assert kept == [0, 1]
    assert list(recent) == list(range(144, 150))


def permute(store: KVStore, order: Sequence[int]) -> None:
    """Move every slot's tensors to another place of the allocation, and the map with them."""
    held = [store.storage.read(place).clone() for place in range(len(order))]
    for content, new in zip(held, order, strict=True):
        store.storage.write(new, content)
    places, free = ([order[place] for place in each] for each in (store.table.places, store.table.free))
    store.restored(store.data() | {"places": places, "free": free})  # the view is made anew


def test_where_a_slot_lies_in_memory_does_not_matter() -> None:
    """T15, bit for bit."""
    straight = tiny_stream(tiny_engine())
    film(straight, [FOX] * 5)
    shuffled = straight.fork()
    with torch.inference_mode():
        permute(shuffled.state.kv[0], [4, 8, 1, 0, 6, 2, 7, 3, 5])
    assert shuffled.state.kv[0].table.places != straight.state.kv[0].table.places
    assert film(shuffled, [FOX] * 4) == film(straight, [FOX] * 4)
    broken = straight.fork()
    broken.state.kv[0].table.places.reverse()
    assert film(broken, [FOX]) != film(straight, [FOX]), "the map is not read"


# ------------------------------------------------------------------ T16: two films at once


def test_two_films_in_turns_are_the_films_they_are_alone() -> None:
    """T16, bit for bit, through one engine, one of them switching its prompt."""
    engine = tiny_engine(autoencoder=tiny_autoencoder())
    scripts = ([FOX] * 3 + [WOLF] * 3, [WOLF] * 6)
    alone = [
        film(tiny_stream(engine, seed=seed), script, decode=True) for seed, script in zip((1, 2), scripts, strict=True)
    ]
    streams = [tiny_stream(engine, seed=1), tiny_stream(engine, seed=2)]
    turns = [
        [stream.next_chunk(script[i]).sha256 for stream, script in zip(streams, scripts, strict=True)] for i in range(6)
    ]
    assert [list(column) for column in zip(*turns, strict=True)] == alone
    assert alone[0][3:] != alone[1][3:]


# ------------------------------------------------------------------ T34: a new prompt


def switch_engine(window: int, sink: int, keep_sink: bool, model: CausalWanTransformer3DModel | None = None) -> Engine:
    model = model or tiny_transformer(dtype=torch.float64)
    return tiny_engine(model, window=window, sink=sink, switch=Recache(window, sink, keep_sink=keep_sink))


@pytest.mark.parametrize(
    ("window", "sink", "keep_sink", "chunks"),
    [(9, 3, True, 5), (9, 3, True, 3), (9, 3, False, 5), (9, 0, True, 5), (8, 2, True, 6)],
    ids=["protected sink", "memory not full", "renewed sink", "no sink", "window of no whole chunks"],
)
def test_recache_equals_one_clean_pass_over_the_stored_latents_with_the_new_text(
    window: int, sink: int, keep_sink: bool, chunks: int
) -> None:
    """T34. Full attention inside; a protected sink's old keys are the only others, and stay as they are."""
    engine = switch_engine(window, sink, keep_sink)
    stream, witness = watched(engine, [FOX] * chunks)
    frames_before, before = remembered(stream.state.kv[0])
    emitted = torch.cat([seen.x for seen in witness.of("clean")], dim=1)
    stream.next_chunk(WOLF, decode=False)
    (replay,) = witness.of("replay")

    cur = 3 * chunks
    protected = sink if keep_sink and cur > window else 0
    replayed = range(max(0, cur - (window - protected)), cur)
    assert replay.row.frames == replayed
    assert replay.frames == [*range(protected), *replayed]
    past = Past([(k[:, :protected], v[:, :protected]) for k, v in before], range(protected))
    latents = emitted[:, replayed.start : replayed.stop]
    zeros = [0.0] * len(replayed)
    _, expected = reference_forward(
        engine.transformer, latents, zeros, text_of(engine, WOLF), positions=replayed, past=past
    )
    for layer, (k, v) in enumerate(replay.memory):
        assert torch.equal(k[:, :protected], before[layer][0][:, :protected]), "a protected slot was written"
        assert torch.equal(v[:, :protected], before[layer][1][:, :protected])
        assert gap(k[:, protected:], expected[layer][0]) < 1e-9
        assert gap(v[:, protected:], expected[layer][1]) < 1e-9

    # Guards, in the last layer: layer 0 depends neither on the text nor on the context.
    moved = replay.memory[-1][0][:, protected:]
    index = [frames_before.index(frame) for frame in replayed if frame in frames_before]
    assert gap(moved[:, -len(index) :], before[-1][0][:, index]) > 1e-2, "the text does nothing"
    model = engine.transformer
    text = text_of(engine, WOLF)
    blocks = block_mask(len(replayed), 3)
    _, masked = reference_forward(model, latents, zeros, text, positions=replayed, past=past, allowed=blocks)
    assert gap(moved, masked[-1][0]) > 1e-2, "it does not see itself whole"
    if protected:
        _, alone = reference_forward(model, latents, zeros, text, positions=replayed)
        assert gap(moved, alone[-1][0]) > 1e-2, "the sink does nothing"


def test_with_a_chunk_mask_and_no_sink_a_replay_is_feeding_chunk_by_chunk_from_scratch() -> None:
    """T34. The engine's prefill feeds; the reference's single pass is masked."""
    engine = switch_engine(9, 0, True)
    _, witness = watched(engine, [FOX] * 5)
    latents = torch.cat([seen.x for seen in witness.of("clean")], dim=1)[:, 6:]
    fresh = tiny_stream(engine)
    fresh.prefill(latents, WOLF)
    _, masked = reference_forward(
        engine.transformer, latents, [0.0] * 9, text_of(engine, WOLF), allowed=block_mask(9, 3), positions=range(6, 15)
    )
    for (k, v), (expected_k, expected_v) in zip(remembered(fresh.state.kv[0])[1], masked, strict=True):
        assert gap(k, expected_k) < 1e-9
        assert gap(v, expected_v) < 1e-9


def test_after_a_recache_the_film_goes_on_from_the_new_memory() -> None:
    """T34. The first pass after it equals the reference with the replayed keys as its past."""
    engine = switch_engine(9, 3, True)
    stream, witness = watched(engine, [FOX] * 5)
    stream.next_chunk(WOLF, decode=False)
    replay = witness.of("replay")[0]
    first = witness.passes[witness.passes.index(replay) + 1]
    kept = [i for i, frame in enumerate(replay.frames) if frame in (0, 1, 2, 12, 13, 14)]
    past = Past([(k[:, kept], v[:, kept]) for k, v in replay.memory], (0, 1, 2, 12, 13, 14))
    expected, _ = reference_forward(
        engine.transformer, first.x, [1000.0] * 3, text_of(engine, WOLF), positions=first.row.frames, past=past
    )
    assert gap(first.flow, expected) < 1e-9


@pytest.mark.parametrize("how", ["transition", "policy"])
def test_keep_changes_the_text_and_nothing_before_it(how: str) -> None:
    """T34."""
    model = tiny_transformer()
    engine = tiny_engine(model, switch=Keep()) if how == "policy" else tiny_engine(model)
    keep = Controls(WOLF.prompt, Transition("keep")) if how == "transition" else WOLF
    plain, witness = watched(engine, [FOX] * 4)
    before = remembered(plain.state.kv[0])
    _, changed = watched(engine, [FOX] * 4 + [keep] * 2)
    assert not changed.of("replay")
    for old, new in zip(witness.passes, changed.passes, strict=False):
        assert torch.equal(old.flow, new.flow)
        assert torch.equal(old.x, new.x)
    first = changed.passes[len(witness.passes)]
    held = [before[0].index(frame) for frame in first.frames]
    assert 0 < len(held) < len(before[0])
    for (k, v), (old_k, old_v) in zip(first.memory, before[1], strict=True):
        assert torch.equal(k, old_k[:, held])
        assert torch.equal(v, old_v[:, held])
    longer, going_on = watched(engine, [FOX] * 6)
    assert gap(going_on.passes[len(witness.passes)].flow, first.flow) > 1e-2
    assert longer.state.switches == ()


def test_a_soft_switch_blends_n_chunks_and_then_replays_once() -> None:
    """T34."""
    engine = tiny_engine()
    witness = Witness()
    stream = tiny_stream(engine, observer=witness)
    film(stream, [FOX] * 3)
    old, new = text_of(engine, FOX).float(), text_of(engine, WOLF).float()
    shares, replays = [], []
    for _ in range(6):
        witness.passes.clear()
        stream.next_chunk(Controls(WOLF.prompt, Transition("soft", 3)), decode=False)
        embeds = stream.state.text.embeds
        assert embeds is not None
        shares.append(float(((embeds - old) * (new - old)).sum() / (new - old).square().sum()))
        assert gap(embeds, torch.lerp(old, new, shares[-1])) < 1e-5
        replays.append(len(witness.of("replay")))
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1], abs=1e-6)
    assert replays == [0, 0, 0, 1, 0, 0]
    assert stream.state.switches == (9,)


def test_a_cut_starts_from_an_empty_memory_in_a_new_epoch() -> None:
    """T34. The pass after it sees itself and nothing else."""
    engine = tiny_engine(dtype=torch.float64, autoencoder=tiny_autoencoder().double())
    witness = Witness()
    stream = tiny_stream(engine, observer=witness)
    before = [stream.next_chunk(FOX) for _ in range(4)]
    witness.passes.clear()
    after = stream.next_chunk(Controls(WOLF.prompt, Transition("cut")))
    assert [chunk.epoch for chunk in before] == [0] * 4
    assert (after.epoch, after.index, after.latent, after.pixel) == (1, 4, range(12, 15), range(45, 57))
    first = witness.passes[0]
    assert first.kind == "denoise"
    assert first.frames == []
    expected, _ = reference_forward(engine.transformer, first.x, [1000.0] * 3, text_of(engine, WOLF))
    assert gap(first.flow, expected) < 1e-8
    assert remembered(stream.state.kv[0])[0] == [12, 13, 14]
    # The picture starts anew as well: a decoder without a past gives the same frames.
    clean = stream.state.latents.get(range(12, 15))
    autoencoder = engine.autoencoder
    assert isinstance(autoencoder, AutoencoderTAEHV)
    whole = autoencoder.unfold(autoencoder.decode_raw(clean)).clamp(0, 1)
    assert after.pixels is not None
    assert gap(torch.from_numpy(after.pixels).permute(0, 3, 1, 2)[None].double() / 255, whole) < 0.51 / 255


def test_only_a_soft_transition_has_a_length() -> None:
    with pytest.raises(ValueError, match="use soft to blend over 3 chunks"):
        Transition("recache", 3)
    with pytest.raises(ValueError, match="give it 1 chunk or more"):
        Transition("soft")
    with pytest.raises(ValueError, match="choose one of recache, soft, cut, keep"):
        Transition("fade")  # type: ignore[arg-type]  # what a wrong name does
