"""Windows of chunks at rising noise: StreamDiT's buffer without a memory, and Rolling Forcing's before a long one.

The references say in closed form where every chunk stands at every pass: chunk j enters at pass j * s and does one
step a pass until it has done all. They keep no queue, so the plan's bookkeeping is not repeated in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cache.fifo import SinkWindow
from cache.kv import KVStore
from cache.none import NoMemory
from cache.positions import Absolute, Glued, SlotIndex
from cache.switches import Keep
from cache.types import Evict, Pass, Row, Slot, Slots, View, Write
from cache.windows import RollingWindow, SinkAndRecent
from models.wan import CausalWanTransformer3DModel
from pipelines.build import make_policies
from pipelines.engine import Engine, Policies
from pipelines.presets import PRESETS
from pipelines.snapshots import load_snapshot, save_snapshot
from pipelines.types import Controls, Transition
from schedulers.buffer import MovingBuffer
from schedulers.noise import Address, AddressedNoise, RecordedNoise
from tests.golden_rolling import Released, WindowNoise
from tests.reference import KeysAndValues, Past, reference_forward
from tests.tiny import CHANNELS, FOX, HEIGHT, WIDTH, WOLF, film, gap, tiny_engine, tiny_stream, tiny_transformer

LEVELS = (1000.0, 750.0, 500.0, 250.0)
SEED = 4
CUT = Controls(WOLF.prompt, Transition("cut"))


@pytest.fixture(scope="module")
def model() -> CausalWanTransformer3DModel:
    return tiny_transformer(dtype=torch.float64, num_layers=2)


class Witness:
    """Every pass's row, input and clean estimate."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, Row, Tensor, Tensor | None]] = []

    def __call__(self, work: Pass, row: Row, x: Tensor, flow: Tensor, x0: Tensor | None, store: KVStore) -> None:
        self.rows.append((work.kind, row, x.clone(), x0))

    @property
    def passes(self) -> list[Row]:
        return [row for kind, row, _, _ in self.rows if kind == "denoise"]

    def film(self) -> Tensor:
        """The emitted latents."""
        parts: list[Tensor] = []
        for _, row, _, x0 in self.rows:
            if row.emit and x0 is not None:
                parts.append(x0[:, row.emit.start - row.frames.start :][:, : len(row.emit)])
        return torch.cat(parts, dim=1)


def buffer_engine(model: CausalWanTransformer3DModel | None = None, **plan: Any) -> Engine:
    """StreamDiT in small."""
    buffer = MovingBuffer(LEVELS, **{"step": "euler", **plan})
    return tiny_engine(model, plan=buffer, cache=NoMemory(), position=SlotIndex(), switch=Keep())


def watched(engine: Engine, script: Sequence[Controls]) -> tuple[Any, Witness]:
    witness = Witness()
    stream = tiny_stream(engine, seed=SEED, observer=witness)
    film(stream, script)
    return stream, witness


def noise_of(frames: range, level: float, purpose: str) -> Tensor:
    addresses = [Address(SEED, 0, frame, level, purpose) for frame in frames]
    return AddressedNoise().frames(addresses, (1, CHANNELS, HEIGHT, WIDTH)).double()


def step(engine: Engine, frames: range, x: Tensor, flow: Tensor, done: int) -> Tensor:
    """A chunk's latents after one more step, having done so many."""
    plan, sigma = engine.policies.plan, engine.policies.schedule.sigma
    here = sigma(LEVELS[done])
    if done + 1 == len(LEVELS):
        return x - here * flow
    there = sigma(LEVELS[done + 1])
    if plan.step == "euler":
        return x + (there - here) * flow
    return (1 - there) * (x - here * flow) + there * noise_of(frames, LEVELS[done + 1], "renoise")


def plain_film(engine: Engine, controls: Controls, chunks: int, first: int = 0) -> Tensor:
    """So many chunks from frame `first` on, from nothing but the places of all chunks at all passes."""
    plan, text = engine.policies.plan, engine.conditioner.embed(controls.prompt).double()
    size, steps = plan.chunk, len(LEVELS)
    frames = {j: range(first + j * size, first + (j + 1) * size) for j in range(chunks + steps)}
    latents = {j: noise_of(frames[j], LEVELS[0], "initial") for j in frames}
    for tick in range((chunks - 1) * plan.micro_steps + steps):
        inside = [j for j in frames if 0 <= tick - j * plan.micro_steps < steps]
        done = {j: tick - j * plan.micro_steps for j in inside}
        finished = torch.cat([latents[j] for j in range(inside[0])], dim=1) if inside[0] else latents[0][:, :0]
        shown = finished[:, max(0, finished.shape[1] - plan.references) :]
        levels = [0.0] * shown.shape[1] + [LEVELS[done[j]] for j in inside for _ in range(size)]
        flow, _ = reference_forward(
            engine.transformer, torch.cat([shown, *(latents[j] for j in inside)], dim=1), levels, text
        )
        for j, part in zip(inside, flow[:, shown.shape[1] :].split(size, dim=1), strict=True):
            latents[j] = step(engine, frames[j], latents[j], part, done[j])
    return torch.cat([latents[j] for j in range(chunks)], dim=1)


# ------------------------------------------------------------------ T33: the buffer

SHAPES: dict[str, dict[str, Any]] = {
    "one chunk, all steps": {"chunk": 2, "micro_steps": 4},
    "diagonal": {"chunk": 1},
    "diagonal of chunks": {"chunk": 2},
    "two bands": {"chunk": 3, "micro_steps": 2},
    "fresh noise": {"chunk": 1, "micro_steps": 2, "step": "renoise"},
    "a reference": {"chunk": 2, "references": 1},
    "references over chunks": {"chunk": 1, "micro_steps": 2, "references": 3},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_moving_buffer_equals_the_closed_form_of_its_chunks(shape: str, model: CausalWanTransformer3DModel) -> None:
    """T33."""
    engine = buffer_engine(model, **SHAPES[shape])
    _, witness = watched(engine, [FOX] * 6)
    assert gap(witness.film(), plain_film(engine, FOX, 6)) < 1e-10


def test_one_chunk_with_all_steps_is_plain_diffusion(model: CausalWanTransformer3DModel) -> None:
    """T33. C = 1: chunks that know nothing of one another."""
    engine = buffer_engine(model, chunk=3, micro_steps=4)
    _, witness = watched(engine, [FOX] * 3)
    text, sigma = engine.conditioner.embed(FOX.prompt).double(), engine.policies.schedule.sigma
    for chunk in range(3):
        frames = range(3 * chunk, 3 * chunk + 3)
        x = noise_of(frames, LEVELS[0], "initial")
        for here, there in zip(LEVELS, (*LEVELS[1:], None), strict=True):
            flow, _ = reference_forward(model, x, [here] * 3, text)
            x = x - sigma(here) * flow if there is None else x + (sigma(there) - sigma(here)) * flow
        assert gap(witness.film()[:, frames.start : frames.stop], x) < 1e-10
    _, joint = watched(buffer_engine(model, chunk=3, micro_steps=2), [FOX] * 3)
    assert gap(joint.film()[:, :3], witness.film()[:, :3]) > 1e-2, "chunks in one buffer do not see one another"


def test_single_frames_with_single_steps_are_the_diagonal_queue(model: CausalWanTransformer3DModel) -> None:
    """T33. FIFO-Diffusion (Kim et al. 2024, arXiv 2405.11473), as its queue."""
    engine = buffer_engine(model, chunk=1)
    _, witness = watched(engine, [FOX] * 6)
    text, queue, out, entered = engine.conditioner.embed(FOX.prompt).double(), [], [], 0
    while len(out) < 6:
        queue.append((entered, noise_of(range(entered, entered + 1), LEVELS[0], "initial")))
        entered += 1
        levels = list(LEVELS[: len(queue)])[::-1]
        flow, _ = reference_forward(model, torch.cat([x for _, x in queue], dim=1), levels, text)
        moved = [
            (frame, step(engine, range(frame, frame + 1), x, part, LEVELS.index(level)))
            for (frame, x), part, level in zip(queue, flow.split(1, dim=1), levels, strict=True)
        ]
        full = len(moved) == len(LEVELS)
        out += [x for _, x in moved[:full]]
        queue = moved[full:]
    assert gap(witness.film(), torch.cat(out, dim=1)) < 1e-10


@pytest.mark.parametrize("shape", SHAPES)
def test_an_emitted_chunk_had_all_its_passes_and_the_levels_move_back_with_each_shift(shape: str) -> None:
    """T33."""
    engine = buffer_engine(**SHAPES[shape])
    plan = engine.policies.plan
    bands = len(LEVELS) // plan.micro_steps
    witness = Witness()
    stream = tiny_stream(engine, observer=witness)
    stood: list[tuple[float, ...]] = []
    for _ in range(8):
        stream.next_chunk(FOX, decode=False)
        stood.append(stream.state.levels)
    for frame in range(8 * plan.chunk):
        noisy = [row for row in witness.passes if frame in row.frames and row.levels[row.frames.index(frame)] > 0]
        assert len(noisy) == len(LEVELS), f"frame {frame}"
    assert len(set(stood)) == 1
    assert len(stood[0]) == (bands - 1) * plan.chunk
    assert list(stood[0]) == sorted(stood[0]), "noise rises from front to back"
    steady = [row for row in witness.passes if row.frames.stop - plan.width > 0]
    assert len({row.levels for row in steady}) == plan.micro_steps
    assert {len(row.frames) for row in steady} == {plan.width}


def test_references_are_shown_clean_and_stay_as_they_are(model: CausalWanTransformer3DModel) -> None:
    stream, witness = watched(buffer_engine(model, chunk=1, references=2), [FOX] * 6)
    emitted = witness.film()
    shown = 0
    for _, row, x, _ in witness.rows:
        clean = [frame for frame, level in zip(row.frames, row.levels, strict=True) if level == 0.0]
        assert len(clean) == min(2, row.frames.start + len(clean))
        for frame in clean:
            assert torch.equal(x[:, row.frames.index(frame)], emitted[:, frame])
        shown += len(clean)
    assert shown > 6
    assert torch.equal(stream.state.latents.get(range(4, 6)), emitted[:, 4:])
    _, alone = watched(buffer_engine(model, chunk=1), [FOX] * 6)
    assert gap(alone.film()[:, :1], emitted[:, :1]) == 0.0
    assert gap(alone.film()[:, 1:2], emitted[:, 1:2]) > 1e-2, "references do nothing"


def test_given_frames_are_references_too(model: CausalWanTransformer3DModel) -> None:
    """An image to begin from: what was given before the film is shown like what the film showed."""
    witness = Witness()
    stream = tiny_stream(buffer_engine(model, chunk=1, references=2), observer=witness)
    given = torch.randn(1, 1, CHANNELS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    stream.prefill(given, FOX)
    stream.next_chunk(FOX, decode=False)
    _, row, x, _ = witness.rows[1]
    assert (row.frames, row.levels) == (range(2), (0.0, LEVELS[0]))
    assert torch.equal(x[:, :1], given)


@pytest.mark.parametrize("references", [0, 3])
def test_a_cut_empties_the_buffer_and_it_fills_again(references: int, model: CausalWanTransformer3DModel) -> None:
    engine = buffer_engine(model, chunk=2, references=references)
    stream, witness = watched(engine, [FOX] * 3 + [CUT] + [WOLF] * 2)
    before = next(i for i, row in enumerate(witness.passes) if row.text == 2)
    assert witness.passes[before - 1].frames.stop == 12, "chunks were in flight"
    assert (witness.passes[before].frames, witness.passes[before].levels) == (range(6, 8), (LEVELS[0],) * 2)
    assert gap(witness.film()[:, 6:], plain_film(engine, WOLF, 3, first=6)) < 1e-10
    assert stream.state.epoch == 1
    _, kept = watched(engine, [FOX] * 3 + [WOLF] * 3)
    assert gap(kept.film()[:, 6:8], witness.film()[:, 6:8]) > 1e-2, "a cut does nothing"


def test_a_new_prompt_reaches_the_frames_deep_in_the_buffer_most(model: CausalWanTransformer3DModel) -> None:
    """Without a cut nothing is lost: frames in flight go on under the new text from where they are."""
    engine = buffer_engine(model, chunk=1)
    _, plain = watched(engine, [FOX] * 8)
    _, switched = watched(engine, [FOX] * 4 + [WOLF] * 4)
    rows = list(zip(plain.rows, switched.rows, strict=True))
    at = next(i for i, row in enumerate(switched.passes) if row.text == 2)
    assert all(torch.equal(a[2], b[2]) for a, b in rows[: at + 1])
    assert all(a[1].levels == b[1].levels for a, b in rows)
    assert gap(plain.film()[:, :4], switched.film()[:, :4]) == 0.0
    moved = [gap(plain.film()[:, f : f + 1], switched.film()[:, f : f + 1]) for f in range(4, 8)]
    assert all(distance > 1e-2 for distance in moved)


@pytest.mark.parametrize("name", ["rolling-forcing", "streamdit"])
def test_a_restart_and_a_branch_with_chunks_in_flight_give_the_same_film(name: str, tmp_path: Path) -> None:
    policies = make_policies(PRESETS[name])
    engine = replace(tiny_engine(tiny_transformer(num_layers=2)), policies=policies)
    stream = tiny_stream(engine, seed=SEED)
    film(stream, [FOX] * 3)
    assert len(stream.state.levels) == policies.plan.width - policies.plan.chunk, "nothing is in flight"
    snapshot, branch = stream.snapshot(), stream.fork()
    expected = film(stream, [FOX, WOLF, WOLF])
    assert film(branch, [FOX, WOLF, WOLF]) == expected
    again = tiny_stream(engine, seed=99)
    film(again, [WOLF])
    again.restore(snapshot)
    assert film(again, [FOX, WOLF, WOLF]) == expected
    save_snapshot(snapshot, tmp_path / "state.safetensors")
    again.restore(load_snapshot(tmp_path / "state.safetensors"))
    assert film(again, [FOX, WOLF, WOLF]) == expected
    again.restore(snapshot)
    again.state.flight.ring.mul_(1.01)
    assert film(again, [FOX]) != expected[:1], "what is in flight does nothing"


# ------------------------------------------------------------------ Rolling Forcing


def rolling_engine(model: CausalWanTransformer3DModel, **policies: Any) -> Engine:
    """Rolling Forcing in small: 3 chunks of 2 in a pass, which sees 10 frames; 14 are remembered, 2 for ever."""
    small: dict[str, Any] = {
        "plan": MovingBuffer(LEVELS[:3], chunk=2, memory="clean"),
        "cache": SinkWindow(window=14, sink=2, counts="commit"),
        "view": RollingWindow(visible=10, sink=2),
        "position": Glued(),
        "switch": Keep(),
    }
    return tiny_engine(model, **{**small, **policies})


def test_rolling_forcing_equals_loops_over_all_frames_keys(model: CausalWanTransformer3DModel) -> None:
    """The memory is a list of every frame's clean keys here, and what a pass sees of it is written out."""
    chunks, size, steps, sink, visible, held = 12, 2, 3, 2, 10, 14
    engine = rolling_engine(model)
    _, witness = watched(engine, [FOX] * chunks)
    text, sigma = engine.conditioner.embed(FOX.prompt).double(), engine.policies.schedule.sigma
    frames = {j: range(j * size, (j + 1) * size) for j in range(chunks + steps)}
    latents = {j: noise_of(frames[j], LEVELS[0], "initial") for j in frames}
    memory: dict[int, KeysAndValues] = {}

    def past(seen: Sequence[int], positions: Sequence[int]) -> Past | None:
        layers = [[torch.stack([memory[f][layer][kv] for f in seen], dim=1) for kv in (0, 1)] for layer in range(2)]
        return Past([(k, v) for k, v in layers], positions)

    dropped = 0
    for tick in range(chunks + steps - 1):
        inside = [j for j in frames if 0 <= tick - j < steps]
        start, stop = frames[inside[0]].start, frames[inside[-1]].stop
        recent = range(max(sink, start - (visible - sink - (stop - start))), start)
        seen = [*range(sink), *recent]
        glued = [*range(start - len(recent) - sink, start - len(recent)), *recent]
        flow, _ = reference_forward(
            model,
            torch.cat([latents[j] for j in inside], dim=1),
            [LEVELS[tick - j] for j in inside for _ in range(size)],
            text,
            positions=range(start, stop),
            past=past(seen, glued) if start else None,
        )
        for j, part in zip(inside, flow.split(size, dim=1), strict=True):
            done = tick - j
            x0 = latents[j] - sigma(LEVELS[done]) * part
            if done + 1 < steps:
                level = LEVELS[done + 1]
                x0 = (1 - sigma(level)) * x0 + sigma(level) * noise_of(frames[j], level, "renoise")
            latents[j] = x0
        if len(inside) < steps:
            continue
        others = [*range(sink), *range(max(sink, start - (held - sink - size)), start)][-(visible - size) :]
        dropped += 0 not in others
        _, keys = reference_forward(
            model,
            latents[inside[0]],
            [0.0] * size,
            text,
            positions=frames[inside[0]],
            past=past(others, others) if start else None,
        )
        for index, frame in enumerate(frames[inside[0]]):
            memory[frame] = [(k[:, index], v[:, index]) for k, v in keys]
    assert dropped > 3, "the memory never outgrew what its writes see"
    assert gap(witness.film(), torch.cat([latents[j] for j in range(chunks)], dim=1)) < 1e-9
    for changed in (
        {"position": Absolute()},
        {"view": SinkAndRecent(window=10, sink=2)},
        {"view": RollingWindow(visible=8, sink=2)},
        {"cache": SinkWindow(window=14, sink=2)},
    ):
        _, other = watched(rolling_engine(model, **changed), [FOX] * chunks)
        # What a write sees reaches the film through the deeper layers' keys alone.
        assert gap(other.film(), witness.film()) > 1e-3, f"{changed} changes nothing"


def rows_of(policies: Policies, chunks: int) -> Iterator[tuple[str, Row, list[int], list[int], list[int]]]:
    """Kind, row, frames seen, positions of queries and of keys, of all passes: the engine's loop in integers."""
    entries: list[Slot] = []
    cur, levels = 0, ()
    for _ in range(chunks):
        for work in policies.plan.passes(View(cur, 1, levels)):
            (row,) = work.rows
            for action in policies.cache.begin(row, Slots(0, cur, tuple(entries))):
                assert isinstance(action, Evict)
                del entries[action.slots.start : action.slots.stop]
            slots = Slots(0, cur, tuple(entries))
            ranges = policies.window.select(row, slots)
            queries, keys = policies.position.place(row, ranges, slots)
            numbers = [slot.frame for slot in entries] + list(row.frames)
            yield work.kind, row, [numbers[i] for r in ranges for i in range(r.start, r.stop)], queries, keys
            for action in policies.cache.end(row, slots):
                assert isinstance(action, Write)
                entries += [Slot(frame, action.tag) for frame in action.frames]
            if work.kind == "denoise":
                levels, emitted = tuple(level or 0.0 for level in row.to), row.emit
        cur, levels = emitted.stop, levels[len(emitted) :]


def test_what_rolling_forcing_sees_and_where_are_the_published_integers() -> None:
    seen = {
        (kind, row.frames.start): (frames, queries, keys)
        for kind, row, frames, queries, keys in rows_of(make_policies(PRESETS["rolling-forcing"]), 14)
    }

    def runs(*parts: range) -> list[int]:
        return [frame for part in parts for frame in part]

    own = range(3, 18)
    assert seen["denoise", 0][0] == runs(range(15))
    assert seen["denoise", 3] == (runs(range(3), own), runs(own), runs(range(3), own))
    own = range(9, 24)
    assert seen["denoise", 9] == (runs(range(3), range(6, 9), own), runs(own), runs(range(3, 9), own))
    own = range(21, 36)
    assert seen["denoise", 21] == (runs(range(3), range(18, 21), own), runs(own), runs(range(15, 21), own))
    assert seen["clean", 18] == (runs(range(21)), runs(range(18, 21)), runs(range(21)))
    assert seen["clean", 21] == (runs(range(3, 24)), runs(range(21, 24)), runs(range(3, 24))), "the sink drops out"
    assert seen["clean", 36] == (runs(range(18, 39)), runs(range(36, 39)), runs(range(18, 39)))


def test_a_glued_sink_is_the_same_as_counting_what_is_seen() -> None:
    """Only distances count: less the first position, Rolling Forcing needs the positions 0..20 for ever."""
    policies = make_policies(PRESETS["rolling-forcing"])
    counted = replace(policies, position=SlotIndex())
    for glued, plain in zip(rows_of(policies, 400), rows_of(counted, 400), strict=True):
        shift = glued[4][0]
        assert [p - shift for p in glued[4]] == plain[4]
        assert [p - shift for p in glued[3]] == plain[3]
    assert max(glued[4]) > 1024
    assert max(plain[4]) == 20


def test_rolling_forcing_runs_18_frames_for_every_3_and_begins_after_5_passes() -> None:
    passes = [len(row.frames) for _, row, *_ in rows_of(make_policies(PRESETS["rolling-forcing"]), 4)]
    assert passes == [3, 6, 9, 12, 15, 3, 15, 3, 15, 3, 15, 3]


def test_presets_of_moving_buffers_state_the_numbers_of_their_papers() -> None:
    rolling, streamdit = (make_policies(PRESETS[name]).plan for name in ("rolling-forcing", "streamdit"))
    assert rolling.levels == pytest.approx((1000, 952.381, 882.353, 769.231, 555.556), abs=1e-3)
    assert (rolling.width, rolling.chunk, rolling.memory) == (15, 3, "clean")
    assert streamdit.levels == pytest.approx([1000 * (8 - i) / 8 for i in range(8)])
    assert (streamdit.width, streamdit.chunk, streamdit.memory, streamdit.references) == (16, 2, "joint", 0)
    wider = replace(PRESETS["streamdit"], schedule=replace(PRESETS["streamdit"].schedule, micro_steps=2, references=4))
    assert make_policies(wider).plan.width == 4 + 4 * 2
    with pytest.raises(ValueError, match="8 levels cannot be cut into bands of 3"):
        make_policies(replace(wider, schedule=replace(wider.schedule, micro_steps=3)))
    with pytest.raises(ValueError, match="asks for a first chunk of 1, but its noise plan 'moving-buffer'"):
        make_policies(replace(wider, first_chunk=1))


# ------------------------------------------------------------------ the replayer's plan and noise


@pytest.mark.parametrize(("steps", "blocks"), [(5, 10), (3, 3), (4, 5), (1, 3)])
def test_the_released_order_of_passes_is_the_recorded_one(steps: int, blocks: int) -> None:
    """Window w holds blocks max(0, w - n + 1) .. min(nb - 1, w), the oldest the cleanest; each is written after."""
    levels, cur, ours = tuple(1000.0 - 100 * i for i in range(steps)), 0, []
    plan, stand = Released(MovingBuffer(levels, chunk=3, memory="clean"), 3 * blocks), ()
    while cur < 3 * blocks:
        for work in plan.passes(View(cur, 1, stand)):
            (row,) = work.rows
            ours.append((work.kind, row.frames, row.levels))
            if work.kind == "denoise":
                stand, emitted = tuple(level or 0.0 for level in row.to), row.emit
        cur, stand = emitted.stop, stand[len(emitted) :]
    expected = []
    for window in range(blocks + steps - 1):
        first, last = max(0, window - steps + 1), min(blocks - 1, window)
        at = tuple(levels[min(steps - 1, window - block)] for block in range(first, last + 1) for _ in range(3))
        expected += [
            ("denoise", range(3 * first, 3 * last + 3), at),
            ("clean", range(3 * first, 3 * first + 3), (0.0,) * 3),
        ]
    assert ours == expected


def test_a_draw_of_the_whole_window_serves_one_chunk() -> None:
    draws = torch.randn(3, 2 * 6, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    source = WindowNoise(RecordedNoise(draws), chunk=2)
    addresses = [Address(0, 0, frame, level, "renoise") for frame, level in enumerate((0.0, 0.0, 5.0, 5.0, 7.0, 7.0))]
    out = source.frames(addresses, (2, 1, 1, 1))
    whole = draws.unflatten(1, (2, 6))
    assert torch.equal(out[:, 2:4], whole[0][:, 2:4])
    assert torch.equal(out[:, 4:6], whole[1][:, 4:6])
