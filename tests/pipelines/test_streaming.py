"""The loop: the same film twice, going back, branching, beginning from given frames, and staying the same size."""

from __future__ import annotations

import gc
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.taehv import AutoencoderTAEHV
from pipelines.engine import Engine
from pipelines.streaming import Stream
from pipelines.tree import leaves
from pipelines.types import Chunk, Controls, Transition, pixel_range, prompt_text
from schedulers.noise import Address, AddressedNoise, RecordedNoise
from tests.tiny import (
    CHANNELS,
    FOX,
    HEIGHT,
    WIDTH,
    WOLF,
    FakeText,
    ListeningNoise,
    film,
    gap,
    tiny_autoencoder,
    tiny_engine,
    tiny_stream,
    tiny_transformer,
)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny_engine(autoencoder=tiny_autoencoder())


# ------------------------------------------------------------------ the same film


def test_the_same_seed_gives_the_same_film_and_another_seed_another(engine: Engine) -> None:
    script = [FOX] * 3 + [WOLF] * 3
    once, twice, other = (film(tiny_stream(engine, seed=seed), script, decode=True) for seed in (5, 5, 6))
    assert once == twice
    assert len(set(once)) == len(once)
    assert not set(once) & set(other)
    assert film(tiny_stream(engine, seed=5, stream=1), script[:1], decode=True) != once[:1]


def test_the_prompt_and_a_mix_of_prompts_change_the_film(engine: Engine) -> None:
    mixes = [FOX, WOLF, Controls((("a red fox runs", 0.5), ("a grey wolf", 1.5))), Controls((("a red fox runs", 3.0),))]
    fox, wolf, mixed, alone = (film(tiny_stream(engine), [each])[0] for each in mixes)
    assert len({fox, wolf, mixed}) == 3
    assert alone == fox, "weights are relative"
    assert prompt_text(mixes[2].prompt) == "0.50 a red fox runs + 1.50 a grey wolf"


def test_chunks_are_numbered_hashed_and_timed(engine: Engine) -> None:
    stream = tiny_stream(engine)
    chunks = list(islice(stream.chunks(lambda: FOX), 4))
    assert [chunk.index for chunk in chunks] == [0, 1, 2, 3]
    assert [chunk.latent for chunk in chunks] == [range(3), range(3, 6), range(6, 9), range(9, 12)]
    assert [chunk.pixel for chunk in chunks] == [range(9), range(9, 21), range(21, 33), range(33, 45)]
    for chunk in chunks:
        assert chunk.pixels is not None
        assert chunk.pixels.dtype == np.uint8
        assert chunk.pixels.shape == (len(chunk.pixel), 8 * HEIGHT, 8 * WIDTH, 3)
        assert chunk.sha256 == hashlib.sha256(chunk.pixels.tobytes()).hexdigest()
        assert (chunk.prompt, chunk.epoch, chunk.drift) == (FOX.prompt, 0, None)
        assert set(chunk.seconds) == {"conditioning", "plan", "denoise", "remember", "decode", "model"}
        assert 0 < chunk.seconds["model"] <= chunk.seconds["denoise"] + chunk.seconds["remember"]
    assert stream.fps == 16


def test_pixel_frames_of_all_latents_tile_the_film() -> None:
    assert pixel_range(0) == range(1)
    assert [frame for latent in range(9) for frame in pixel_range(latent)] == list(range(33))
    with pytest.raises(ValueError, match="count from 0"):
        pixel_range(-1)


def test_decoded_pixels_are_the_latents_decoded_in_one_piece(engine: Engine) -> None:
    latents: list[Tensor] = []
    stream = tiny_stream(engine, observer=lambda work, row, x, *_: latents.append(x) if work.kind == "clean" else None)
    pixels = [stream.next_chunk(FOX).pixels for _ in range(3)]
    autoencoder = engine.autoencoder
    assert isinstance(autoencoder, AutoencoderTAEHV)
    whole = autoencoder.decode(torch.cat(latents, dim=1))[0].permute(0, 2, 3, 1)
    streamed = np.concatenate([part for part in pixels if part is not None]).astype(np.float32) / 255
    assert gap(torch.from_numpy(streamed), whole) < 0.51 / 255
    assert float(whole.std()) > 0.05


def test_noise_is_drawn_once_a_frame_and_level_with_its_own_address(engine: Engine) -> None:
    noise = ListeningNoise()
    film(tiny_stream(engine, seed=8, stream=2, noise=noise), [FOX] * 3)
    asked = [address for call in noise.asked for address in call]
    expected = [
        Address(8, 2, frame, level, purpose)
        for chunk in range(3)
        for level, purpose in ((1000.0, "initial"), (600.0, "renoise"))
        for frame in range(3 * chunk, 3 * chunk + 3)
    ]
    assert asked == expected
    assert len(noise.asked) == 6, "the clean pass and the last level draw nothing"
    euler = ListeningNoise()
    film(tiny_stream(tiny_engine(step="euler"), noise=euler), [FOX] * 3)
    assert [call[0].purpose for call in euler.asked] == ["initial"] * 3


def test_recorded_noise_gives_the_film_it_was_recorded_from(engine: Engine) -> None:
    noise = ListeningNoise()
    expected = film(tiny_stream(engine, seed=8, noise=noise), [FOX] * 2)
    recorded = RecordedNoise([draw.flatten(0, 1) for draw in noise.given])
    assert film(tiny_stream(engine, seed=0, noise=recorded), [FOX] * 2) == expected
    assert recorded.left == 0


def test_films_side_by_side_are_the_films_of_their_own_streams() -> None:
    """Equal noise, other GEMM shapes: equal to rounding, not to the bit (architecture.md F3)."""
    engine = tiny_engine(dtype=torch.float64)
    pair = tiny_stream(engine, seed=3, batch=2)
    singles = [tiny_stream(engine, seed=3, stream=stream) for stream in (0, 1)]
    for controls in [FOX] * 4 + [WOLF] * 2:
        pair.next_chunk(controls, decode=False)
        for single in singles:
            single.next_chunk(controls, decode=False)
    both = pair.state.latents.ring.clone()
    for index, single in enumerate(singles):
        assert gap(both[index], single.state.latents.ring.clone()[0]) < 1e-8
    assert gap(both[0], both[1]) > 1e-2
    with pytest.raises(ValueError, match="batch of 1"):
        tiny_stream(tiny_engine(autoencoder=tiny_autoencoder()), batch=2).next_chunk(FOX)


def test_a_chunk_that_cannot_be_decoded_leaves_the_film_as_it_was() -> None:
    stream = tiny_stream(tiny_engine())
    with pytest.raises(ValueError, match=r"needs an autoencoder .*decode=False"):
        stream.next_chunk(FOX)
    assert stream.state.chunk == stream.state.cur == 0
    assert film(stream, [FOX] * 2) == film(tiny_stream(tiny_engine()), [FOX] * 2)


# ------------------------------------------------------------------ going back and branching


def test_a_restored_film_goes_on_as_it_did(engine: Engine) -> None:
    stream = tiny_stream(engine, seed=1)
    film(stream, [FOX] * 4, decode=True)
    saved = stream.snapshot()
    script = [FOX, WOLF, WOLF, Controls(FOX.prompt, Transition("soft", 2)), FOX, FOX]
    going_on = film(stream, script, decode=True)
    for _ in range(2):
        stream.restore(saved)
        assert stream.state.chunk == 4
        assert film(stream, script, decode=True) == going_on
    elsewhere = tiny_stream(tiny_engine(autoencoder=tiny_autoencoder()), seed=99)
    film(elsewhere, [WOLF] * 2, decode=True)
    elsewhere.restore(saved)
    assert film(elsewhere, script, decode=True) == going_on, "another stream of the same kind"


def test_a_snapshot_in_the_middle_of_a_blend_goes_on_blending(engine: Engine) -> None:
    stream = tiny_stream(engine)
    soft = Controls(WOLF.prompt, Transition("soft", 3))
    film(stream, [FOX] * 2 + [soft])
    saved = stream.snapshot()
    going_on = film(stream, [soft] * 4)
    stream.restore(saved)
    assert film(stream, [soft] * 4) == going_on


def test_restoring_copies_into_the_same_buffers(engine: Engine) -> None:
    stream = tiny_stream(engine)
    film(stream, [FOX] * 3)
    saved, before = stream.snapshot(), addresses(stream)
    film(stream, [FOX] * 2)
    stream.restore(saved)
    assert addresses(stream) == before
    held = {leaf.data_ptr() for leaf in leaves(saved.tree) if isinstance(leaf, Tensor)}
    assert not held & {*before}


def test_a_snapshot_holds_every_field_of_the_state(engine: Engine) -> None:
    state = tiny_stream(engine).state
    assert [*state.snapshot().tree] == [each.name for each in fields(state)]


def test_branches_part_and_leave_their_parent_alone(engine: Engine) -> None:
    parent, control = tiny_stream(engine, seed=2), tiny_stream(engine, seed=2)
    film(parent, [FOX] * 4, decode=True)
    film(control, [FOX] * 4, decode=True)
    left, right = parent.fork(), parent.fork()
    wolves = film(left, [WOLF] * 3, decode=True)
    bears = film(right, [Controls("a brown bear sleeps")] * 3, decode=True)
    same = film(left.fork(), [WOLF], decode=True)
    expected = film(control, [FOX] * 3, decode=True)
    assert film(parent, [FOX] * 3, decode=True) == expected
    assert len({*wolves, *bears, *expected}) == 9
    assert film(left, [WOLF], decode=True) == same


@pytest.mark.parametrize(
    "other",
    [
        {"window": 12},
        {"height": 6, "width": 4},
        {"batch": 2},
        {"layers": 2},
        {"channels": 8},
    ],
    ids=["window", "turned picture", "batch", "layers", "channels"],
)
def test_a_snapshot_of_another_kind_of_stream_is_refused_and_changes_nothing(other: dict[str, Any]) -> None:
    stream = tiny_stream(tiny_engine(window=9))
    film(stream, [FOX] * 4)
    channels = other.get("channels", CHANNELS)
    model = tiny_transformer(num_layers=other.get("layers", 3), in_channels=channels, out_channels=channels)
    foreign = Stream(
        tiny_engine(model, window=other.get("window", 9)),
        height=other.get("height", HEIGHT),
        width=other.get("width", WIDTH),
        batch=other.get("batch", 1),
    )
    film(foreign, [WOLF] * 2)
    expected = film(stream.fork(), [FOX] * 2)
    with pytest.raises(ValueError, match="restore it into a stream of the same preset, model"):
        stream.restore(foreign.snapshot())
    assert film(stream, [FOX] * 2) == expected


# ------------------------------------------------------------------ given frames


def given(frames: int = 3) -> Tensor:
    return torch.randn(1, frames, CHANNELS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3))


def test_a_film_goes_on_from_given_frames(engine: Engine) -> None:
    stream, plain = tiny_stream(engine), tiny_stream(engine)
    stream.prefill(given(), FOX)
    assert stream.state.cur == 3
    assert [slot.frame for slot in stream.state.kv[0].entries] == [0, 1, 2]
    other = tiny_stream(engine)
    other.prefill(given() + 0.5, FOX)
    following = stream.next_chunk(FOX)
    assert following.latent == range(3, 6)
    assert following.pixel == range(9, 21)
    assert following.pixels is not None
    assert len(following.pixels) == 12, "the decoder did not see the given frames"
    assert following.sha256 != other.next_chunk(FOX).sha256, "the given frames do nothing"
    film(plain, [FOX], decode=True)
    assert plain.next_chunk(FOX).sha256 != following.sha256


def test_the_frames_of_a_film_given_to_a_new_one_continue_it(engine: Engine) -> None:
    stream = tiny_stream(engine, seed=4)
    film(stream, [FOX] * 3, decode=True)
    latents = stream.state.latents.get(range(9))
    again = tiny_stream(engine, seed=4)
    again.prefill(latents, FOX)
    assert film(again, [FOX] * 3, decode=True) == film(stream, [FOX] * 3, decode=True)


def test_given_frames_may_end_within_a_chunk_and_outnumber_the_window(engine: Engine) -> None:
    stream = tiny_stream(engine)
    stream.prefill(given(13), FOX)
    assert stream.state.cur == 13
    assert [slot.frame for slot in stream.state.kv[0].entries] == [0, 1, 2, *range(7, 13)]
    assert stream.next_chunk(FOX, decode=False).latent == range(13, 16)


def test_frames_are_given_before_the_film_begins_or_not_at_all(engine: Engine) -> None:
    stream = tiny_stream(engine)
    film(stream, [FOX])
    with pytest.raises(ValueError, match=r"has begun \(3 latent frames\): prefill a new stream"):
        stream.prefill(given(), FOX)


# ------------------------------------------------------------------ an endless film


def addresses(stream: Stream) -> list[int]:
    """Where the long-lived buffers lie."""
    store = stream.state.kv[0]
    views = stream._passes._buffers
    buffers = [views.view, views.staged, *store.tensors().values(), stream.state.latents.ring]
    return [tensor.data_ptr() for tensor in buffers]


def tensors_alive() -> int:
    gc.collect()
    return sum(issubclass(type(each), Tensor) for each in gc.get_objects())


def test_two_hundred_chunks_leave_the_stream_as_large_as_it_was() -> None:
    model = tiny_transformer(num_layers=1)
    stream = tiny_stream(tiny_engine(model, levels=(1000.0,), autoencoder=tiny_autoencoder()))
    film(stream, [FOX] * 20, decode=True)
    before, places = tensors_alive(), addresses(stream)
    for chunk in range(180):
        stream.next_chunk(FOX if chunk % 40 < 20 else WOLF)
    assert tensors_alive() <= before + 2  # the second prompt's embedding
    assert addresses(stream) == places
    assert len(stream.state.switches) <= 32


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for a device; on a CPU nothing shows it."""

    WAITING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter[str]()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        name = func.overloadpacket.__name__
        if name.startswith(self.WAITING):
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, counts: Counter[str]) -> Iterator[None]:
    """Count the methods of a tensor that bring its numbers to the host."""
    with monkeypatch.context() as patch:
        for name in ("item", "cpu", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__"):
            patch.setattr(Tensor, name, counting(name, getattr(Tensor, name), counts))
        yield


def counting(name: str, method: Callable[..., Any], counts: Counter[str]) -> Callable[..., Any]:
    def counted_method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        counts[name] += 1
        return method(self, *args, **kwargs)

    return counted_method


def test_nothing_between_the_first_noise_and_the_decoder_waits_for_the_device(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, waits = Counter[str](), Waits()
    marks: list[tuple[str, Counter[str], Counter[str]]] = []

    def mark(name: str) -> None:
        marks.append((name, counts.copy(), waits.seen.copy()))

    class Noise(AddressedNoise):
        def frames(self, addresses: Sequence[Address], shape: Sequence[int]) -> Tensor:
            out = super().frames(addresses, shape)
            if addresses[0].purpose == "initial":
                mark("noise")
            return out

    autoencoder = engine.autoencoder
    assert autoencoder is not None
    decode = autoencoder.decode_stream

    def decode_stream(latents: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        mark("decode")
        return decode(latents, state)

    monkeypatch.setattr(autoencoder, "decode_stream", decode_stream)
    stream = tiny_stream(engine, noise=Noise())
    film(stream, [FOX] * 5, decode=True)  # tables that are made once are made
    marks.clear()
    with counted(monkeypatch, counts), waits:
        for _ in range(3):
            stream.next_chunk(FOX)
        assert waits.calls > 300, "the mode saw nothing"
    assert counts["numpy"] >= 3, "the patch counts nothing: pixels reach the host"
    assert [name for name, *_ in marks] == ["noise", "decode"] * 3
    for (_, *before), (_, *after) in zip(marks[::2], marks[1::2], strict=True):
        assert before == after


# ------------------------------------------------------------------ controls


def test_a_text_is_encoded_once_however_often_it_comes_back() -> None:
    engine = tiny_engine()
    text = engine.conditioner._encoder
    assert isinstance(text, FakeText)
    stream = tiny_stream(engine)
    film(stream, [FOX, FOX, WOLF, FOX, Controls((("a red fox runs", 1.0), ("a grey wolf", 1.0)))])
    film(tiny_stream(engine), [WOLF])
    assert text.calls == 2


def test_empty_prompts_are_refused() -> None:
    for prompt in ("", "  ", (), (("a fox", 1.0), (" ", 1.0))):
        with pytest.raises(ValueError, match="the prompt is empty"):
            Controls(prompt)
    with pytest.raises(ValueError, match="add up to more than 0"):
        Controls((("a fox", 0.0),))


def test_a_new_prompt_in_the_middle_of_a_blend_takes_over(engine: Engine) -> None:
    stream = tiny_stream(engine)
    film(stream, [FOX, Controls(WOLF.prompt, Transition("soft", 4)), Controls(WOLF.prompt, Transition("soft", 4))])
    bear = Controls("a brown bear sleeps")
    film(stream, [bear])
    assert stream.state.text.blend == 0
    assert torch.equal(stream.state.text.embeds, engine.conditioner.embed(bear.prompt))  # type: ignore[arg-type]
    assert stream.state.switches == (3, 9)


def test_switches_are_told_to_the_drift_measure() -> None:
    engine = replace(tiny_engine(autoencoder=tiny_autoencoder()), drift_spreads=(0.1,) * 5)
    stream = tiny_stream(engine)
    chunks: list[Chunk] = [stream.next_chunk(FOX if index < 8 else WOLF) for index in range(16)]
    drifts = [chunk.drift is not None for chunk in chunks]
    assert drifts == [False] * 5 + [True] * 3 + [False] * 5 + [True] * 3


def test_a_film_is_decoded_whole_or_not_at_all(engine: Engine) -> None:
    stream = tiny_stream(engine)
    stream.next_chunk(FOX, decode=False)
    before = stream.state.kv[0].entries
    with pytest.raises(ValueError, match=r"has seen 0 of 3 latent frames.*every chunk of a film, or none"):
        stream.next_chunk(FOX)
    assert stream.state.kv[0].entries == before
    assert stream.next_chunk(FOX, decode=False).latent == range(3, 6)
