"""StreamDiffusionV2: a sink that is renewed, noise that follows motion, and video to video through the one loop."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity

from cache.fifo import SinkWindow
from cache.kv import KVStore
from cache.kv_shape import KVShape
from cache.refresh import SinkRefresh
from cache.scorers.similarity import FrameSimilarity
from cache.types import Entry, Evict, Move, Pin, Row, Slot, SlotRange, Slots, Write
from models.wan import CausalWanTransformer3DModel
from pipelines.build import make_policies
from pipelines.conditioning import Conditioner
from pipelines.engine import Engine
from pipelines.presets import PRESETS, Preset
from pipelines.snapshots import load_snapshot, save_snapshot
from pipelines.state import Snapshot
from pipelines.streaming import Stream
from pipelines.tree import copied, put_back
from pipelines.types import Controls, Start, Transition, pixel_range
from schedulers.batch import StreamBatch
from schedulers.changes import motion
from schedulers.motion import MotionNoise
from tests.tiny import CHANNELS, FOX, HEIGHT, WIDTH, WOLF, FakeText, film, gap, tiny_stream, tiny_transformer

PRESET = PRESETS["streamdiffusion-v2"]
WINDOW, SINK = 6, 3
ALWAYS, NEVER = 2.0, -2.0
"""Thresholds above and below every cosine."""


@pytest.fixture(scope="module")
def model() -> CausalWanTransformer3DModel:
    return tiny_transformer(num_layers=1)


def engine_of(model: CausalWanTransformer3DModel, threshold: float | None = None, preset: Preset = PRESET) -> Engine:
    if threshold is not None:
        preset = replace(preset, cache=SinkRefresh(WINDOW, SINK, keeps="level", threshold=threshold))
    return Engine(model, Conditioner(FakeText()), make_policies(preset))


def frames_of(stream: Stream, lane: int = 0) -> list[int]:
    return [slot.frame for slot in stream.state.kv[lane].entries]


# ------------------------------------------------------------------ T17: noise that follows motion


def noise_shares(controller: MotionNoise, begin: float | None, moved: float, count: int) -> list[float]:
    shares: list[float] = []
    for _ in range(count):
        begin = controller.share(begin, moved)
        shares.append(begin)
    return shares


def test_a_still_film_ends_at_the_full_share_of_noise_and_a_restless_one_below_it() -> None:
    controller = MotionNoise()
    still = motion(np.full((5, 4, 4, 3), 90, np.uint8))
    restless = motion(np.random.default_rng(0).uniform(-1, 1, (5, 16, 16, 3)))
    assert (still, restless > controller.full) == (0.0, True)
    assert noise_shares(controller, 0.3, still, 20)[-1] == pytest.approx(0.8, abs=1e-12)
    assert noise_shares(controller, None, restless, 20)[-1] == pytest.approx(0.7, abs=1e-12)
    assert controller.share(None, 0.0) == pytest.approx(controller.still), "a film begins at rest"


@pytest.mark.parametrize("moved", [0.0, 0.05, 0.13, 0.2, 5.0])
def test_the_share_of_noise_follows_its_closed_form(moved: float) -> None:
    controller, begin = MotionNoise(), 0.45
    end = 0.8 - 0.1 * min(moved / 0.2, 1.0)
    for k, share in enumerate(noise_shares(controller, begin, moved, 30), start=1):
        assert share == pytest.approx(end + 0.1**k * (begin - end), abs=1e-12)


@pytest.mark.parametrize("listed", [(700.0, 500.0), (700.0, 400.0), (1000.0, 500.0, 400.0, 200.0), (1000.0, 960.0)])
def test_levels_fall_strictly_at_every_share_of_noise_where_the_released_list_rises(listed: tuple[float, ...]) -> None:
    controller, rises = PRESET.video.noise, 0
    for share in np.linspace(0.05, 1.0, 400).tolist():
        levels = Entry(max(float(controller.level(share)), 1.0)).levels(listed)
        assert all(1000 >= high > low > 0 for high, low in pairwise(levels))
        assert levels[1:] == listed[len(listed) - len(levels) + 1 :]
        rises += controller.level(share) <= listed[1]
    assert rises > 100


def test_levels_are_cut_in_double_precision() -> None:
    assert PRESET.video.noise.level(0.71) == 610
    assert int(float(np.float32(0.71)) * 1000) == 709, "single precision loses a level"


def test_motion_is_the_largest_change_between_neighbours_in_either_kind_of_pixels() -> None:
    pixels = np.zeros((4, 8, 8, 3), np.uint8)
    pixels[2:] += 51  # a fifth of the way from -1 to 1
    pixels[3] += 10
    assert motion(pixels) == pytest.approx(0.4, abs=1e-12)
    assert motion(pixels / 127.5 - 1) == pytest.approx(0.4, abs=1e-12)
    with pytest.raises(ValueError, match="give the frame before"):
        motion(pixels[:1])


# ------------------------------------------------------------------ similarity


SHAPE = KVShape(layers=2, batch=1, capacity=6, own=2, rows=1, columns=4, heads=2, head_dim=6)


def put(store: KVStore, frames: Sequence[int], generator: torch.Generator) -> None:
    """A pass that leaves random keys behind."""
    count = len(store.entries)
    for memory in store.read([SlotRange(count, count + len(frames))], list(frames), len(frames)):
        assert memory.staged_keys is not None
        assert memory.staged_values is not None
        memory.staged_keys.copy_(torch.randn(memory.staged_keys.shape, generator=generator) + 0.3)
        memory.staged_values.copy_(torch.randn(memory.staged_values.shape, generator=generator) + 0.3)
    store.stage([Slot(frame) for frame in frames])
    store.apply(Write(range(frames[0], frames[-1] + 1), range(count, count + len(frames))))
    store.over()


def by_hand(store: KVStore) -> list[float]:
    """Slot by slot, layer by layer, what the last slot is compared with."""
    out: list[float] = []
    for slot in range(len(store.entries)):
        cosines: list[Tensor] = []
        for layer in range(store.shape.layers):
            for content in store.logical(layer)[1:]:
                means = content[0].mean(dim=1).flatten(1)
                cosines.append(cosine_similarity(means[slot], means[-1], dim=0))
        out.append(float(torch.stack(cosines).mean()))
    return out


def test_scores_are_mean_cosines_with_the_newest_frame_and_only_of_entries() -> None:
    generator = torch.Generator().manual_seed(3)
    store = KVStore(SHAPE, scorer=FrameSimilarity())
    assert store.slots(0).scores == ()
    for frame in range(5):
        put(store, [frame], generator)
        scores = store.slots(frame + 1).scores
        assert len(scores) == frame + 1, "empty places are not judged"
        assert scores == pytest.approx(by_hand(store), abs=1e-6)
        assert scores[-1] == pytest.approx(1.0, abs=1e-6)
    assert min(scores) < 0.9
    before, saved = scores, copied(store)
    store.over()
    assert store.slots(5).scores == before, "nothing new, nothing measured"
    store.apply(Move(4, 1))
    assert store.slots(5).scores == (), "the scores are of entries that stand elsewhere now"
    put_back(store, saved, torch.device("cpu"))
    assert store.slots(5).scores == before
    store.apply(Evict(range(1)))
    put(store, [5, 6], generator)
    assert store.slots(7).scores == pytest.approx(by_hand(store), abs=1e-6)
    store.reset()
    assert store.slots(0).scores == ()
    assert KVStore(SHAPE).slots(0).scores == ()


# ------------------------------------------------------------------ T15, T16: the sink


def row_of(frame: int, chunk: int = 1) -> Row:
    frames = range(frame, frame + chunk)
    return Row(0, frames, (500.0,) * chunk, (None,) * chunk, "none", "noisy", 1, frames, frames)


def test_the_sink_frame_least_like_the_newest_gives_it_its_place() -> None:
    entries = tuple(Slot(f, "sink" if f < 3 else "recent") for f in (0, 1, 2, 7, 8, 9))
    policy = SinkRefresh(WINDOW, SINK, threshold=0.2)
    scores = (0.5, 0.1, 0.15, 0.0, 0.0, 1.0)
    swap = [Evict(range(1, 2)), Move(4, 1), Pin(range(1, 2), "sink")]
    assert policy.begin(row_of(10), Slots(0, 10, entries, scores=scores)) == swap
    ring = SinkWindow(WINDOW, SINK).begin(row_of(10), Slots(0, 10, entries))
    assert ring == [Evict(range(3, 4))]
    for stays in ((0.5, 0.2, 0.3, 0.0, 0.0, 1.0), ()):
        assert policy.begin(row_of(10), Slots(0, 10, entries, scores=stays)) == ring
    assert policy.begin(row_of(10, 2), Slots(0, 10, entries, scores=scores)) == [*swap, Evict(range(3, 4))]


def test_a_memory_that_is_not_full_is_never_refreshed() -> None:
    """T16."""
    policy = SinkRefresh(WINDOW, SINK, threshold=ALWAYS)
    for held in range(WINDOW):
        entries = tuple(Slot(f, "sink" if f < SINK else "recent") for f in range(held))
        assert policy.begin(row_of(held), Slots(0, held, entries, scores=(0.0,) * held)) == []
    bare = SinkRefresh(WINDOW, 0, threshold=ALWAYS)
    entries = tuple(Slot(f) for f in range(6))
    assert bare.begin(row_of(6), Slots(0, 6, entries, scores=(0.0,) * 6)) == [Evict(range(1))]


def test_without_a_refresh_fifty_chunks_hold_the_sink_and_the_last_frames(model: CausalWanTransformer3DModel) -> None:
    """T15, T16: similarity never falls below the threshold, and empty places are never compared."""
    stream = tiny_stream(engine_of(model, NEVER))
    hashes = film(stream, [FOX] * 3)
    for chunk in range(3, 50):
        hashes += film(stream, [FOX])
        for lane, store in enumerate(stream.state.kv):
            done = chunk + len(stream.state.kv) - lane  # lanes of noisier levels are chunks ahead
            newest = range(max(SINK, done - (WINDOW - SINK)), done)
            assert frames_of(stream, lane) == [*range(min(SINK, done)), *newest]
            assert [slot.tag for slot in store.entries] == ["sink"] * SINK + ["recent"] * (len(store.entries) - SINK)
    plain = replace(PRESET, cache=SinkWindow(WINDOW, SINK, keeps="level"))
    assert film(tiny_stream(engine_of(model, preset=plain)), [FOX] * 50) == hashes


def test_the_place_in_the_allocation_does_not_matter(model: CausalWanTransformer3DModel) -> None:
    """T15."""
    shuffled = tiny_stream(engine_of(model))
    for number, store in enumerate(shuffled.state.kv):
        random.Random(number).shuffle(store.table.free)
        assert store.table.free != sorted(store.table.free)
    assert film(shuffled, [FOX] * 12) == film(tiny_stream(engine_of(model)), [FOX] * 12)


def test_a_refreshed_memory_holds_what_a_model_of_it_holds(model: CausalWanTransformer3DModel) -> None:
    """Each chunk judges the scores of the chunk before; the least alike sink frame goes and the ring waits."""
    stream = tiny_stream(engine_of(model, threshold=0.93))
    sinks: dict[int, list[int]] = {lane: [] for lane in range(4)}
    rings: dict[int, list[int]] = {lane: [] for lane in range(4)}
    refreshed = kept = 0
    for _ in range(30):
        before = [store.slots(0) for store in stream.state.kv]
        ticks = 4 if not stream.state.chunk else 1
        film(stream, [FOX])
        for lane, store in enumerate(stream.state.kv):
            fresh = ticks - lane if ticks > 1 else 1
            for _ in range(fresh):  # in the first chunk nothing can be judged yet that would go: sinks are filling
                sink, ring = sinks[lane], rings[lane]
                scores = before[lane].scores if ticks == 1 else ()
                if len(scores) == WINDOW and min(scores[:SINK]) < 0.93:
                    sink[scores.index(min(scores[:SINK]))] = ring.pop()
                    refreshed += 1
                elif len(sink) == SINK and len(ring) == WINDOW - SINK:
                    ring.pop(0)
                    kept += 1
                (sink if len(sink) < SINK else ring).append(before_next(sink, ring))
            assert frames_of(stream, lane) == [*sinks[lane], *rings[lane]]
            assert [slot.tag for slot in store.entries[:SINK]] == ["sink"] * min(SINK, len(store.entries))
    assert refreshed > 10
    assert kept > 10


def before_next(sink: Sequence[int], ring: Sequence[int]) -> int:
    """The frame that follows the newest one held."""
    return max([*sink, *ring], default=-1) + 1


def test_a_refresh_changes_the_film_and_bounds_what_is_held(model: CausalWanTransformer3DModel) -> None:
    never, always = tiny_stream(engine_of(model, NEVER)), tiny_stream(engine_of(model, ALWAYS))
    hashes = [film(stream, [FOX] * 12) for stream in (never, always)]
    assert hashes[0][:3] == hashes[1][:3]
    assert not set(hashes[0][7:]) & set(hashes[1][7:])
    for lane in range(4):
        assert frames_of(never, lane)[:SINK] == [0, 1, 2]
        assert max(frames_of(always, lane)[:SINK]) > 2
        assert len(frames_of(always, lane)) == WINDOW


def test_sessions_in_turns_and_after_a_cut_owe_nothing_to_each_other(model: CausalWanTransformer3DModel) -> None:
    """T16: what one session judged is not in the next one's memory."""
    engine = engine_of(model, 0.93)
    alone = [film(tiny_stream(engine, seed=seed), [FOX] * 10) for seed in (0, 1)]
    pair = [tiny_stream(engine, seed=seed) for seed in (0, 1)]
    turns = [[film(stream, [FOX])[0] for stream in pair] for _ in range(10)]
    assert [list(column) for column in zip(*turns, strict=True)] == alone
    stream = tiny_stream(engine)
    film(stream, [FOX] * 6)
    stream._carry_out(stream._transition(Controls("x y", Transition("cut")), 1)[0])
    assert all(store.slots(0) == Slots(lane, 0, ()) for lane, store in enumerate(stream.state.kv))


def test_a_snapshot_carries_what_was_judged(model: CausalWanTransformer3DModel, tmp_path: Path) -> None:
    engine = engine_of(model, 0.93)
    stream = tiny_stream(engine)
    film(stream, [FOX] * 9)
    snapshot = stream.snapshot()
    expected = film(stream, [FOX] * 6)
    save_snapshot(snapshot, tmp_path / "a.snapshot")
    other = tiny_stream(engine, seed=5)
    film(other, [WOLF] * 3)
    other.restore(load_snapshot(tmp_path / "a.snapshot"))
    assert film(other, [FOX] * 6) == expected
    assert [len(store["scores"]) for store in snapshot.tree["kv"]] == [WINDOW] * 4
    forgot = Snapshot({**snapshot.tree, "kv": tuple({**store, "scores": ()} for store in snapshot.tree["kv"])})
    other.restore(forgot)
    assert film(other, [FOX] * 6) != expected, "without the scores it is another film"


# ------------------------------------------------------------------ the preset


def test_the_preset_states_the_numbers_of_the_paper_and_what_a_text_only_film_needs() -> None:
    policies = make_policies(PRESET)
    assert policies.plan == StreamBatch((1000.0, 500.0, 400.0, 200.0), chunk=1)
    assert policies.cache == SinkRefresh(window=6, sink=3, keeps="level", threshold=0.2)
    assert PRESET.schedule.shift == 8.0
    assert policies.switch.replays == 0


def test_positions_stay_inside_the_window_however_long_the_film(model: CausalWanTransformer3DModel) -> None:
    engine = engine_of(model)
    asked: list[list[int]] = []

    @dataclass(frozen=True)
    class Listening:
        def place(self, row: Row, ranges: Sequence[SlotRange], slots: Slots) -> tuple[list[int], list[int]]:
            placed = PRESET.position.place(row, ranges, slots)
            asked.append([*placed[0], *placed[1]])
            return placed

    engine = replace(engine, policies=replace(engine.policies, position=Listening()))
    film(tiny_stream(engine), [FOX] * 30)
    assert max(max(positions) for positions in asked) == WINDOW - 1


# ------------------------------------------------------------------ video to video


CHUNKS = 12


def picture(seed: int) -> tuple[NDArray[np.uint8], Tensor]:
    """A clip that is still at first and restless later, and clean latents of it."""
    generator = np.random.default_rng(seed)
    pixels = np.repeat(generator.integers(0, 255, (1, 8, 12, 3), np.uint8), pixel_range(CHUNKS + 4).stop, axis=0)
    pixels[25:] = generator.integers(0, 255, pixels[25:].shape, np.uint8)
    noise = torch.Generator().manual_seed(seed)
    steady = torch.randn(1, 1, CHANNELS, HEIGHT, WIDTH, generator=noise)
    return pixels, steady + 0.1 * torch.randn(1, CHUNKS + 4, CHANNELS, HEIGHT, WIDTH, generator=noise)


def camera_of(stream: Stream, clip: tuple[NDArray[np.uint8], Tensor]) -> Callable[[range], Start]:
    """A camera whose noise follows motion; all it remembers is in the stream's state."""
    controller, (pixels, latents) = PRESET.video.noise, clip

    def camera(frames: range) -> Start:
        before = max(0, pixel_range(frames[0]).start - 1)
        moved = motion(pixels[before : pixel_range(frames[-1]).stop]) if frames[0] else 0.0
        share = controller.share(stream.state.scale, moved)
        return Start(latents[:, frames.start : frames.stop], share, float(controller.level(share)))

    return camera


def shoot(stream: Stream, clip: tuple[NDArray[np.uint8], Tensor], chunks: int) -> tuple[list[str], list[Tensor]]:
    """Hashes and latents of so many chunks of video to video."""
    camera, hashes, latents = camera_of(stream, clip), list[str](), list[Tensor]()
    for _ in range(chunks):
        chunk = stream.next_chunk(FOX, decode=False, camera=camera)
        hashes.append(chunk.sha256)
        latents.append(stream.state.latents.get(chunk.latent))
    return hashes, latents


def test_a_camera_is_seen_in_the_film_and_nothing_else_changes_it(model: CausalWanTransformer3DModel) -> None:
    engine, clips = engine_of(model), (picture(1), picture(2))
    (first, made), (second, other) = (shoot(tiny_stream(engine), clip, CHUNKS) for clip in clips)
    assert shoot(tiny_stream(engine), clips[0], CHUNKS)[0] == first, "the same camera, the same film"
    without = film(tiny_stream(engine), [FOX] * CHUNKS)
    assert not set(first) & set(second)
    assert not set(first) & set(without)
    assert all(gap(a, b) > 1e-2 for a, b in zip(made, other, strict=True))
    pixels, latents = picture(1)
    latents[:, 6:] = clips[1][1][:, 6:]
    third, _ = shoot(tiny_stream(engine), (pixels, latents), CHUNKS)
    assert third[:6] == first[:6], "what the camera sees later changes what was shown"
    assert not set(third[6:]) & set(first)


def test_the_first_pass_stands_at_the_cameras_level_and_the_others_at_the_plans(
    model: CausalWanTransformer3DModel,
) -> None:
    levels: dict[int, list[float]] = {lane: [] for lane in range(4)}
    entered: list[Tensor] = []

    def witness(_work: object, row: Row, x: Tensor, *_: object) -> None:
        levels[row.lane].append(row.levels[0])
        if not row.lane:
            entered.append(x.clone())

    clip = picture(1)
    stream = tiny_stream(engine_of(model))
    stream._passes.observer = witness
    shoot(stream, clip, CHUNKS)
    assert levels[0][:5] == [700.0] * 5, "a still picture: 1000 * 0.8 - 100"
    assert 600 <= levels[0][-1] < 610, "a restless one"
    assert [set(levels[lane]) for lane in (1, 2, 3)] == [{500.0}, {400.0}, {200.0}]
    clean = clip[1][:, :1]
    noise = (entered[0] - 0.2 * clean) / 0.8
    assert abs(float(noise.std()) - 1) < 0.2
    assert gap(entered[0], 0.8 * noise + 0.2 * clean) < 1e-5
    assert 0.70 <= (stream.state.scale or 0) < 0.701


def test_a_film_from_a_camera_goes_on_from_a_snapshot(model: CausalWanTransformer3DModel, tmp_path: Path) -> None:
    engine, clip = engine_of(model), picture(1)
    stream = tiny_stream(engine)
    shoot(stream, clip, 4)  # frames up to 7 have entered: the next one is the first to move
    save_snapshot(stream.snapshot(), tmp_path / "a.snapshot")
    expected, _ = shoot(stream, clip, CHUNKS - 4)
    again = tiny_stream(engine, seed=8)
    again.restore(load_snapshot(tmp_path / "a.snapshot"))
    assert again.state.scale == pytest.approx(0.8)
    twin = again.fork()
    assert shoot(again, clip, CHUNKS - 4)[0] == expected
    assert shoot(twin, clip, CHUNKS - 4)[0] == expected
    forgot = Snapshot({**load_snapshot(tmp_path / "a.snapshot").tree, "scale": 0.3})
    twin.restore(forgot)
    assert shoot(twin, clip, CHUNKS - 4)[0] != expected, "the controller's state is part of the film"


def test_a_camera_with_much_motion_and_little_noise_goes_on_with_the_levels_that_are_left() -> None:
    """At noise 0.7 the released list goes on at 500 after 500, and below 0.6 up again."""
    preset = replace(PRESET, schedule=replace(PRESET.schedule, denoising_step_list=(700, 500, 300)))
    engine, levels = engine_of(tiny_transformer(num_layers=1), preset=preset), list[list[float | None]]()
    stream = tiny_stream(engine)
    stream._passes.observer = lambda _work, row, *_: levels.append([row.frames.start, row.levels[0], row.to[0]])
    latents = picture(3)[1]
    shares = [0.7, 0.61, 0.6, 0.6, 0.5, 0.7]
    for share in shares:
        stream.next_chunk(
            FOX,
            decode=False,
            camera=lambda frames, share=share: Start(latents[:, frames.start : frames.stop], share, 1000 * share - 100),
        )
    passes = {frame: [level[1:] for level in levels if level[0] == frame] for frame in range(8)}
    assert passes[2] == [[600.0, 500.0], [500.0, 300.0], [300.0, None]], "the first chunk takes three of a kind"
    assert passes[4] == [[500.0, 300.0], [300.0, None]]
    assert passes[6] == [[400.0, 300.0]]
