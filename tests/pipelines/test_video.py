"""Video in, video out: as many pictures as went in, the decisions of the host, and state that goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cache.buffers import Buffers
from cache.fifo import SinkWindow
from cache.positions import Absolute
from cache.switches import Keep
from cache.types import NoisePlan
from models.taehv import AutoencoderTAEHV
from models.wan import CausalWanTransformer3DModel
from pipelines.presets.base import VideoEntry
from pipelines.snapshots import load_snapshot, save_snapshot
from pipelines.types import Controls, Transition
from pipelines.video import Shown, VideoInput, open_for_video
from schedulers.batch import StreamBatch
from schedulers.motion import MotionNoise
from schedulers.serial import Serial
from schedulers.similarity import SimilarityFilter
from tests.tiny import FOX, HEIGHT, WIDTH, WOLF, tiny_autoencoder, tiny_engine, tiny_stream, tiny_transformer

LEVELS = (700.0, 500.0, 300.0)
TALL, WIDE = 8 * HEIGHT, 8 * WIDTH
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def model() -> CausalWanTransformer3DModel:
    return tiny_transformer(num_layers=1)


@pytest.fixture(scope="module")
def autoencoder() -> AutoencoderTAEHV:
    return tiny_autoencoder(latents_mean=(0.3, -0.2, 0.1, 0.0), latents_std=(0.8, 1.2, 1.0, 0.9))


def video_of(
    model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV, plan: NoisePlan, *, seed: int = 3, **entry: Any
) -> VideoInput:
    keeps = "level" if plan.needs == {"level"} or getattr(plan, "memory", "") == "level" else "clean"
    engine = tiny_engine(
        model,
        plan=plan,
        cache=SinkWindow(8, 2, keeps=keeps),
        position=Absolute(),
        switch=Keep(),
        autoencoder=autoencoder,
    )
    engine = replace(engine, policies=replace(engine.policies, video=VideoEntry(**entry)))
    return VideoInput(tiny_stream(engine, seed=seed, video=True))


def restless(frames: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 255, (frames, TALL, WIDE, 3), np.uint8)


def drifting(frames: int) -> Pixels:
    """A picture that moves by a pixel a frame."""
    wide = np.random.default_rng(1).integers(0, 255, (TALL, WIDE + frames, 3), np.uint8)
    return np.stack([wide[:, number : number + WIDE] for number in range(frames)])


def play(video: VideoInput, frames: Pixels, controls: Sequence[Controls] = (FOX,)) -> list[Shown]:
    """All pieces of the film; the last of the controls stay."""
    shown: list[Shown] = []
    at = pushes = 0
    while at < len(frames):
        count = min(video.wants, len(frames) - at)
        shown += video.push(frames[at : at + count], controls[min(pushes, len(controls) - 1)])
        at, pushes = at + count, pushes + 1
    return [*shown, *video.finish(controls[-1])]


def pictures(shown: Sequence[Shown]) -> Pixels:
    return np.concatenate([piece.pixels for piece in shown])


# ------------------------------------------------------------------ T11: n frames in, n frames out


PLANS: list[NoisePlan] = [
    StreamBatch(LEVELS),
    StreamBatch(LEVELS, chunk=2, first_chunk=1),
    StreamBatch(LEVELS[:1], chunk=3),
    Serial(LEVELS, chunk=3),
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_as_many_frames_come_back_as_went_in(
    plan: NoisePlan, model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV
) -> None:
    for count in (1, 2, 5, 6, 8, 9, 13, 21):
        shown = play(video_of(model, autoencoder, plan), drifting(count))
        assert [number for piece in shown for number in piece.frames] == list(range(count))
        assert all(len(piece.pixels) == len(piece.frames) for piece in shown)
        assert pictures(shown).shape == (count, TALL, WIDE, 3)


def test_the_film_of_a_batch_is_that_of_one_chunk_at_a_time_to_its_last_frame(
    model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T11, T2: the last chunks too, which nothing follows; T5: at one level all orders are one."""
    monkeypatch.setattr(Buffers, "joint", lambda *_: None)
    frames = drifting(14)
    for levels in (LEVELS, LEVELS[:1]):
        batch = play(video_of(model, autoencoder, StreamBatch(levels)), frames)
        serial = play(video_of(model, autoencoder, Serial(levels, chunk=1, memory="level")), frames)
        assert np.array_equal(pictures(batch), pictures(serial))
    other = play(video_of(model, autoencoder, StreamBatch(LEVELS)), restless(14))
    assert not np.array_equal(pictures(other)[-1], pictures(batch)[-1]), "the video is not seen"


def test_a_video_is_encoded_in_pieces_as_it_would_be_whole(
    model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV
) -> None:
    for raw in (False, True):
        video = video_of(model, autoencoder, Serial(LEVELS, chunk=2), raw=raw)
        frames, entered = drifting(5 + 8 + 8), list[torch.Tensor]()
        usual = video.stream.enter

        def enter(controls: Controls, start: Any, *, entered: list[torch.Tensor] = entered, usual: Any = usual) -> Any:
            entered.append(start.latents)
            return usual(controls, start)

        video.stream.enter = enter  # type: ignore[method-assign]  # to see what enters
        play(video, frames)
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2)[None] / 255
        whole = autoencoder.encode(clip, pad="start")
        whole = autoencoder.unnormalised(whole) if raw else whole  # tests/models/test_autoencoder.py
        assert (torch.cat(entered, dim=1) - whole).abs().max() < 1e-5
        assert whole.std() > 1e-2


def test_frames_of_another_kind_are_refused_and_change_nothing(
    model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV
) -> None:
    video = video_of(model, autoencoder, Serial(LEVELS, chunk=2))
    assert (video.wants, video.size) == (5, (TALL, WIDE))
    for frames, sentence in (
        (drifting(6), "takes 5 frames"),
        (drifting(5)[:0], "takes 5 frames"),
        (drifting(5)[:, 1:], "are uint8 RGB"),
        (drifting(5).astype(np.float32), "are uint8 RGB"),
    ):
        with pytest.raises(ValueError, match=sentence):
            video.push(frames, FOX)
    expected = play(video_of(model, autoencoder, Serial(LEVELS, chunk=2)), drifting(7))
    assert np.array_equal(pictures(play(video, drifting(7))), pictures(expected))
    with pytest.raises(ValueError, match="has ended"):
        video.push(drifting(8), FOX)


def test_a_stream_that_is_not_open_for_video_or_has_begun_is_refused(
    model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV
) -> None:
    engine = tiny_engine(model, autoencoder=autoencoder)
    with pytest.raises(ValueError, match="not open for video"):
        VideoInput(tiny_stream(engine))
    begun = tiny_stream(engine, video=True)
    begun.next_chunk(FOX)
    with pytest.raises(ValueError, match="has begun without a video"):
        VideoInput(begun)
    with pytest.raises(ValueError, match="this engine has none"):
        tiny_stream(replace(engine, autoencoder=None), video=True)
    unipc = replace(engine, policies=replace(engine.policies, plan=Serial(LEVELS, step="unipc")))
    with pytest.raises(ValueError, match="cannot begin between its own levels"):
        VideoInput(tiny_stream(unipc, video=True))


# ------------------------------------------------------------------ noise, strength, steps


def test_noise_follows_motion_and_the_decisions_say_so(
    model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV
) -> None:
    noise = MotionNoise(still=0.8, swing=0.1, lag=100)
    video = video_of(model, autoencoder, StreamBatch(LEVELS), noise=noise)
    frames = np.concatenate([np.repeat(drifting(1), 9, axis=0), restless(12)])
    said = []
    for start in (0, 1, 5, 9, 13, 17):
        video.push(frames[start : start + video.wants], FOX)
        (decision,) = video.decisions
        assert (decision.kind, decision.frame) == ("noise", start)
        said.append(decision.data)
    assert [round(line["share"], 4) for line in said] == [0.8, 0.8, 0.8, 0.71, 0.701, 0.7001]
    assert [line["level"] for line in said] == [700, 700, 700, 610, 601, 600]
    assert said[0]["motion"] == said[2]["motion"] == 0
    assert said[3]["motion"] > 0.2
    assert video.stream.state.scale == said[-1]["share"]


def test_without_a_lag_the_model_is_told_the_noise_it_gets(
    model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV
) -> None:
    video = video_of(model, autoencoder, Serial(LEVELS, chunk=1))
    video.push(drifting(1), FOX)
    assert video.stream.state.scale == video.stream.engine.policies.schedule.sigma(800.0)


@pytest.mark.parametrize("strength", [0.02, 0.3, 0.55, 0.6, 0.7, 1.0])
def test_any_strength_makes_a_film_and_more_of_it_follows_the_video_less(
    strength: float, model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV
) -> None:
    """The released list of levels ends such a film where it does not fall: T17, end to end."""
    noise = MotionNoise(still=0.8, lag=100)
    controls = Controls(FOX.prompt, strength=strength)
    for plan in (StreamBatch(LEVELS), Serial(LEVELS, chunk=1)):
        levels: list[list[float]] = []
        video = video_of(model, autoencoder, plan, noise=noise)
        video.stream._passes.observer = lambda work, row, *_, levels=levels: (
            levels.append([row.levels[0], row.to[0]]) if work.kind == "denoise" else None
        )
        shown = play(video, restless(17), [controls])
        assert len(pictures(shown)) == 17
        assert all(to is None or high > to for high, to in levels)
        assert len(levels) < 5 * len(LEVELS) or strength >= 0.7
    for wrong in (0.0, 1.1, -0.5):
        with pytest.raises(ValueError, match="strength"):
            Controls("a fox", strength=wrong)


def test_fewer_steps_run_fewer_passes_from_the_next_chunk_on(
    model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV
) -> None:
    video = video_of(model, autoencoder, Serial(LEVELS, chunk=1))
    passes: list[float] = []
    video.stream._passes.observer = lambda work, row, *_: passes.append(row.levels[0])
    counts = []
    for steps, frames in ((None, 1), (2, 4), (1, 4), (None, 4)):
        passes.clear()
        video.steps = steps
        video.push(drifting(frames), FOX)
        counts.append(len(passes))
        assert video.decisions[0].data.get("steps") == steps
    assert counts == [4, 3, 2, 4], "a clean pass follows"


# ------------------------------------------------------------------ the filter in a film


SKIPPING = SimilarityFilter(most=4, flush=2)


def test_a_still_video_is_worked_on_now_and_then_and_every_frame_is_shown(
    model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV
) -> None:
    video = video_of(model, autoencoder, StreamBatch(LEVELS), similarity=SKIPPING)
    passes: list[int] = []
    video.stream._passes.observer = lambda _work, row, *_: passes.append(row.frames.start) if not row.lane else None
    shown = play(video, np.repeat(drifting(1), 1 + 4 * 24, axis=0))
    assert [number for piece in shown for number in piece.frames] == list(range(97))
    # 3 chunks until something is shown, 4 are skipped, then one enters, and again 3 until it is shown
    assert passes == list(range(len(passes)))
    still = [piece for piece in shown if piece.chunk is None]
    assert len(still) == 25 - len(passes)
    assert len(still) >= 12
    assert all((piece.pixels == piece.pixels[:1]).all() for piece in still)


def test_what_is_on_its_way_is_finished_after_some_chunks_were_skipped(
    model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV
) -> None:
    video = video_of(model, autoencoder, StreamBatch(LEVELS), similarity=SKIPPING)
    moving, kinds = drifting(13), list[list[str]]()
    parts = [moving[:1], moving[1:5], moving[5:9], *[np.repeat(moving[8:9], 4, axis=0)] * 6]
    counts, left = [], []
    for part in parts:
        shown = video.push(part, FOX)
        counts.append([piece.chunk is not None for piece in shown])
        kinds.append([decision.kind for decision in video.decisions])
        left.append(len(video.stream.state.levels))
    assert counts[:5] == [[], [], [True], [False], [True, True, False]]
    assert kinds[:5] == [["noise"]] * 3 + [["skip"], ["skip", "flush"]]
    assert left == [1, 2, 2, 2, 0, 0, 0, 1, 1]
    assert counts[5:7] == [[False], [False]]
    assert kinds[7] == ["noise"], "no more than 4 in a row"


def test_a_restless_video_is_worked_on_all_the_time_and_a_new_scene_is_told(
    model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV
) -> None:
    plan = StreamBatch(LEVELS)
    video = video_of(model, autoencoder, plan, similarity=SKIPPING)
    kinds = []
    for start in (0, 1, 5, 9, 13):
        video.push(restless(17)[start : start + video.wants], FOX)
        kinds.append([decision.kind for decision in video.decisions])
    assert all("skip" not in each for each in kinds)
    video.push(255 - restless(17)[13:], FOX)
    assert [decision.kind for decision in video.decisions] == ["scene", "noise"]


# ------------------------------------------------------------------ state


def test_a_video_goes_on_from_a_snapshot_to_the_bit(
    model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV, tmp_path: Path
) -> None:
    frames = np.concatenate([drifting(9), np.repeat(drifting(9)[-1:], 16, axis=0), restless(12)])

    def begun(seed: int) -> VideoInput:
        return video_of(model, autoencoder, StreamBatch(LEVELS), seed=seed, similarity=SKIPPING)

    whole, other = begun(3), begun(9)
    at = 0
    while at < 21:  # chunks are in flight, and some were skipped
        count = whole.wants
        whole.push(frames[at : at + count], FOX)
        at += count
    assert whole.stream.state.video.skipped
    save_snapshot(whole.stream.snapshot(), tmp_path / "a.snapshot")
    twin = VideoInput(whole.stream.fork())
    expected = play(whole, frames[at:])
    other.push(restless(1), WOLF)
    other.stream.restore(load_snapshot(tmp_path / "a.snapshot"))
    for again in (VideoInput(other.stream), twin):
        made = play(again, frames[at:])
        assert [piece.frames for piece in made] == [piece.frames for piece in expected]
        assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(made, expected, strict=True))
        assert [piece.chunk and piece.chunk.sha256 for piece in made] == [p.chunk and p.chunk.sha256 for p in expected]
    with pytest.raises(ValueError, match=r"encoder is .* parts"):
        tiny_stream(whole.stream.engine).restore(load_snapshot(tmp_path / "a.snapshot"))


def test_a_cut_loses_no_picture(
    model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Buffers, "joint", lambda *_: None)  # rows that end alone are rounded like those that do not
    cut = Controls(WOLF.prompt, Transition("cut"))
    video = video_of(model, autoencoder, StreamBatch(LEVELS))
    shown = play(video, drifting(21), [FOX, FOX, FOX, FOX, cut])
    assert [number for piece in shown for number in piece.frames] == list(range(21))
    usual = pictures(play(video_of(model, autoencoder, StreamBatch(LEVELS)), drifting(21)[:13]))
    assert np.array_equal(pictures(shown)[:13], usual), "what was on its way keeps the words it began with"
    assert [piece.chunk.epoch for piece in shown if piece.chunk] == [0] * 4 + [1] * 2


# ------------------------------------------------------------------ a video that begins in the middle of a film


@pytest.mark.parametrize("plan", [Serial(LEVELS, chunk=3), Serial(LEVELS, chunk=1), StreamBatch(LEVELS)], ids=str)
def test_a_film_goes_from_words_to_a_video_and_back_and_to_another_one(
    plan: NoisePlan, model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV
) -> None:
    stream = video_of(model, autoencoder, plan).stream
    stream.close_video()
    words = [stream.next_chunk(FOX), stream.next_chunk(FOX)]
    frames = drifting(24)
    for begin in (0, 12):
        while (left := stream.finish(FOX)) is not None:
            words.append(left)
        cur = stream.state.cur
        video = open_for_video(stream, frames[begin])
        assert video.wants == 4 * len(stream.entering), "every latent frame of a film that has begun is four pictures"
        shown = list[Shown]()
        while video.stream.state.video.entered < 12:
            shown += video.push(frames[begin : begin + video.wants], FOX)
        entered = stream.state.video.entered
        shown += video.finish(FOX)
        assert [number for piece in shown for number in piece.frames] == list(range(entered))
        assert stream.state.cur == cur + entered // 4
        stream.close_video()
        words.append(stream.next_chunk(FOX))
        assert words[-1].pixel.stop - words[-1].pixel.start == len(words[-1].pixels)  # type: ignore[arg-type]
    assert not stream.state.encoder, "nothing of a video is kept while there is none"
    assert not stream.state.origin


def test_a_video_in_the_middle_of_a_film_is_seen_and_its_state_goes_on(
    model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV, tmp_path: Path
) -> None:
    plan, films = Serial(LEVELS, chunk=3), list[Pixels]()
    for frames in (drifting(24), restless(24)):
        stream = video_of(model, autoencoder, plan).stream
        stream.close_video()
        stream.next_chunk(FOX)
        video = open_for_video(stream, frames[0])
        films.append(pictures(video.push(frames[:12], FOX)))
        save_snapshot(stream.snapshot(), tmp_path / "s")
        films.append(pictures(video.push(frames[12:], FOX)))
        again = tiny_stream(stream.engine, video=True)
        again.restore(load_snapshot(tmp_path / "s"))
        assert np.array_equal(pictures(VideoInput(again).push(frames[12:], FOX)), films[-1])
    assert not np.array_equal(films[0], films[2]), "the video is not seen"


def test_a_video_does_not_enter_behind_what_is_on_its_way(
    model: CausalWanTransformer3DModel, autoencoder: AutoencoderTAEHV
) -> None:
    stream = video_of(model, autoencoder, StreamBatch(LEVELS)).stream
    stream.close_video()
    stream.next_chunk(FOX)
    with pytest.raises(ValueError, match="finish them first"):
        open_for_video(stream, drifting(1)[0])
    assert not stream.state.encoder
