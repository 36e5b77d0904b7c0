"""The Wan autoencoder as a stream: bit-equal to the stock whole-clip calls, all memory in a list of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from models.wan_vae import State, WanVAEStream
from pipelines.types import pixel_range
from tests.tiny import gap

MEAN, STD = [0.1, -0.2, 0.3, 0.0], [1.5, 0.5, 2.0, 1.0]
WAN_2_1: dict[str, Any] = {
    "base_dim": 4,
    "z_dim": 4,
    "num_res_blocks": 1,
    "latents_mean": MEAN,
    "latents_std": STD,
}
WAN_2_2: dict[str, Any] = {
    **WAN_2_1,
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "decoder_base_dim": 6,
    "scale_factor_spatial": 16,
}
FRAMES, H, W = 6, 2, 8
"""16 latent cells: where the stock 1x1 convolution over a whole clip rounds as it does over one frame."""


@pytest.fixture(scope="module", params=[WAN_2_1, WAN_2_2], ids=["wan-2.1", "wan-2.2"])
def stream(request: pytest.FixtureRequest) -> WanVAEStream:
    torch.manual_seed(1)
    return WanVAEStream(AutoencoderKLWan(**request.param).eval())


def latents(seed: int = 0) -> Tensor:
    return torch.randn(1, FRAMES, 4, H, W, generator=torch.Generator().manual_seed(seed))


def pixels(stream: WanVAEStream, frames: int) -> Tensor:
    scale = stream.spatial_scale
    return torch.rand(1, frames, 3, H * scale, W * scale, generator=torch.Generator().manual_seed(2))


def per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(1, 1, 4, 1, 1)


@torch.no_grad()
def decoded_whole(stream: WanVAEStream, z: Tensor) -> Tensor:
    """The stock call, in our layout and range."""
    raw = stream.vae.decode((z * per_channel(STD) + per_channel(MEAN)).transpose(1, 2)).sample  # pyright: ignore[reportAttributeAccessIssue]
    return raw.transpose(1, 2) * 0.5 + 0.5


def decode(stream: WanVAEStream, z: Tensor, split: Sequence[int]) -> Tensor:
    state = stream.init_decode_state(1, *z.shape[3:])
    parts: list[Tensor] = []
    for part in z.split(list(split), dim=1):
        out, state = stream.decode_stream(part, state)
        parts.append(out)
    return torch.cat(parts, dim=1)


def copy(state: State) -> State:
    return [tensor.clone() for tensor in state]


def zeroed(state: State) -> State:
    """What a cut does to the memory of a running film."""
    return [torch.zeros_like(tensor) if tensor.is_floating_point() else tensor for tensor in state]


# ---------------------------------------------------------------------- decoding


@pytest.mark.parametrize("split", [(6,), (1, 3, 2), (1, 1, 1, 1, 1, 1), (3, 3), (2, 4)])
def test_a_film_decoded_in_parts_is_bit_equal_to_the_stock_whole_clip(
    stream: WanVAEStream, split: tuple[int, ...]
) -> None:
    whole = decoded_whole(stream, latents())
    assert whole.shape[1] == pixel_range(FRAMES - 1).stop
    assert whole.std() > 0.05
    assert torch.equal(decode(stream, latents(), split), whole)


@pytest.mark.parametrize("split", [(1, 3, 2), (3, 3)])
def test_at_odd_sizes_parts_are_still_bit_equal_to_one_call_and_near_the_stock_clip(
    stream: WanVAEStream, split: tuple[int, ...]
) -> None:
    z = latents()[..., :3]
    whole = decode(stream, z, (FRAMES,))
    assert torch.equal(decode(stream, z, split), whole)
    assert gap(whole, decoded_whole(stream, z)) < 1e-5


def test_the_first_latent_is_one_pixel_frame_and_every_other_four(stream: WanVAEStream) -> None:
    state = stream.init_decode_state(1, H, W)
    for frame in range(3):
        out, state = stream.decode_stream(latents()[:, frame : frame + 1], state)
        assert out.shape == (1, len(pixel_range(frame)), 3, H * stream.spatial_scale, W * stream.spatial_scale)
        assert int(state[0]) == frame + 1


def test_two_films_in_turns_do_not_touch_each_other(stream: WanVAEStream) -> None:
    films = [latents(0), latents(5)]
    states = [stream.init_decode_state(1, H, W) for _ in films]
    parts: list[list[Tensor]] = [[], []]
    for frames in (range(1), range(1, 3), range(3, FRAMES)):
        for number, film in enumerate(films):
            out, states[number] = stream.decode_stream(film[:, frames.start : frames.stop], states[number])
            parts[number].append(out)
    one, other = (torch.cat(part, dim=1) for part in parts)
    assert torch.equal(one, decoded_whole(stream, films[0]))
    assert torch.equal(other, decoded_whole(stream, films[1]))
    assert not torch.equal(one, other)


def test_films_side_by_side_in_a_batch_are_the_films_alone(stream: WanVAEStream) -> None:
    both = torch.cat([latents(0), latents(5)])
    out, _ = stream.decode_stream(both, stream.init_decode_state(2, H, W))
    for row in range(2):
        assert torch.allclose(out[row : row + 1], decoded_whole(stream, both[row : row + 1]), atol=1e-5)


@pytest.mark.parametrize("taken_after", [0, 1, 2, 4])
def test_a_film_goes_on_from_a_copy_of_its_state_bit_for_bit(stream: WanVAEStream, taken_after: int) -> None:
    z = latents()
    state = stream.init_decode_state(1, H, W)
    if taken_after:
        _, state = stream.decode_stream(z[:, :taken_after], state)
    saved = copy(state)
    first, after = stream.decode_stream(z[:, taken_after:], state)
    assert all(torch.equal(a, b) for a, b in zip(state, saved, strict=True)), "the state given was modified"
    assert any(not torch.equal(a, b) for a, b in zip(after, saved, strict=True))
    again, _ = stream.decode_stream(z[:, taken_after:], saved)
    assert torch.equal(first, again)


def test_no_tensor_of_the_state_ever_changes_its_size_or_type(stream: WanVAEStream) -> None:
    state = stream.init_decode_state(1, H, W)
    sizes = [(tensor.shape, tensor.dtype) for tensor in state]
    assert len(sizes) > 10
    for frame in range(4):
        _, state = stream.decode_stream(latents()[:, frame : frame + 1], state)
        assert [(tensor.shape, tensor.dtype) for tensor in state] == sizes
    state = stream.init_encode_state(1, H, W)
    sizes = [(tensor.shape, tensor.dtype) for tensor in state]
    clip = pixels(stream, 9)
    for frames in (range(1), range(1, 5), range(5, 9)):
        _, state = stream.encode_stream(clip[:, frames.start : frames.stop], state)
        assert [(tensor.shape, tensor.dtype) for tensor in state] == sizes


def test_after_a_cut_nothing_of_the_old_picture_is_left(stream: WanVAEStream) -> None:
    next_frames = latents(9)[:, :2]
    after_cut: list[Tensor] = []
    carried_on: list[Tensor] = []
    for seed in (0, 5):
        _, state = stream.decode_stream(latents(seed)[:, :3], stream.init_decode_state(1, H, W))
        carried_on.append(stream.decode_stream(next_frames, state)[0])
        after_cut.append(stream.decode_stream(next_frames, zeroed(state))[0])
    assert not torch.equal(*carried_on)
    assert torch.equal(*after_cut)
    assert after_cut[0].shape[1] == 8, "the film goes on counting: four pixel frames a latent"


@torch.no_grad()
def test_a_zeroed_state_is_the_stock_cache_without_a_past(stream: WanVAEStream) -> None:
    """Stock's words for it: None for a causal convolution, "Rep" for a temporal upsampling."""
    vae, z = stream.vae, latents(9)[:, :2]
    cache: list[Any] = [None] * 64
    first = vae.post_quant_conv((z * per_channel(STD) + per_channel(MEAN)).transpose(1, 2))
    vae.decoder(first[:, :, :1], feat_cache=cache, feat_idx=[0], first_chunk=True)
    cache = [entry if isinstance(entry, str) else None for entry in cache]
    assert cache.count("Rep") == 2
    parts = [vae.decoder(first[:, :, k : k + 1], feat_cache=cache, feat_idx=[0]) for k in range(2)]
    _, state = stream.decode_stream(latents()[:, :2], stream.init_decode_state(1, H, W))
    ours, _ = stream.decode_stream(z, zeroed(state))
    if stream.patch_size == 1:  # Wan 2.2 folds squares into channels after this point, which other tests cover
        assert torch.equal(ours, torch.cat(parts, dim=2).clamp(-1, 1).transpose(1, 2) * 0.5 + 0.5)
    assert ours.shape[1] == 8


def test_the_shared_module_holds_no_memory_of_any_film(stream: WanVAEStream) -> None:
    names = ("_feat_map", "_enc_feat_map")
    stream.vae.clear_cache()
    before = {key: value.clone() for key, value in stream.vae.state_dict().items()}
    _ = stream.decode_stream(latents(), stream.init_decode_state(1, H, W))
    _ = stream.encode_stream(pixels(stream, 5), stream.init_encode_state(1, H, W))
    assert all(entry is None for name in names for entry in getattr(stream.vae, name))
    assert all(torch.equal(value, before[key]) for key, value in stream.vae.state_dict().items())


def test_a_decoder_in_bfloat16_still_gives_finite_float32_pixels_in_range(stream: WanVAEStream) -> None:
    half = WanVAEStream(AutoencoderKLWan.from_config(stream.vae.config).eval().to(torch.bfloat16))  # pyright: ignore[reportAttributeAccessIssue]
    half.vae.load_state_dict(stream.vae.state_dict())
    state = half.init_decode_state(1, H, W)
    assert {tensor.dtype for tensor in state[1:]} == {torch.bfloat16}
    out, after = half.decode_stream(latents(), state)
    assert out.dtype == torch.float32
    assert {tensor.dtype for tensor in after[1:]} == {torch.bfloat16}
    assert 0 <= float(out.min()) < float(out.max()) <= 1
    difference = (out - decode(stream, latents(), (FRAMES,))).abs()
    assert 0 < float(difference.mean()) < 0.05


# ---------------------------------------------------------------------- encoding


@pytest.mark.parametrize("split", [(17,), (9, 8), (1, 4, 4, 8), (5, 12)])
def test_a_clip_encoded_in_parts_is_bit_equal_to_the_mode_of_the_stock_encoder(
    stream: WanVAEStream, split: tuple[int, ...]
) -> None:
    clip = pixels(stream, 17)
    with torch.no_grad():
        posterior = stream.vae.encode((clip * 2 - 1).transpose(1, 2)).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
    whole = (posterior.mode().transpose(1, 2) - per_channel(MEAN)) / per_channel(STD)
    state = stream.init_encode_state(1, H, W)
    parts: list[Tensor] = []
    for part in clip.split(list(split), dim=1):
        out, state = stream.encode_stream(part, state)
        parts.append(out)
    found = torch.cat(parts, dim=1)
    assert found.shape == (1, 5, 4, H, W)
    assert found.std() > 0.05
    assert torch.equal(found, whole)
    assert int(state[0]) == 17


def test_an_encoder_goes_on_from_a_copy_of_its_state_and_leaves_the_original_alone(stream: WanVAEStream) -> None:
    clip = pixels(stream, 9)
    _, state = stream.encode_stream(clip[:, :5], stream.init_encode_state(1, H, W))
    saved = copy(state)
    first, _ = stream.encode_stream(clip[:, 5:], state)
    assert all(torch.equal(a, b) for a, b in zip(state, saved, strict=True))
    again, _ = stream.encode_stream(clip[:, 5:], saved)
    assert torch.equal(first, again)
    assert not torch.equal(first, stream.encode_stream(clip[:, :5], stream.init_encode_state(1, H, W))[0][:, 1:])


# ---------------------------------------------------------------------- size and refusals


def test_the_real_model_keeps_1801_mib_a_film_at_480x832_and_as_often_as_pixels_grow() -> None:
    """Figures of a run of the stock cache on the meta device (bfloat16): 831, 1801 and 4156 MiB; encoder 1069."""
    with torch.device("meta"):
        real = WanVAEStream(AutoencoderKLWan())

    def mebibytes(state: State) -> int:
        return round(sum(tensor.numel() * tensor.element_size() for tensor in state[1:]) / 2**20)

    kept = [
        mebibytes(real.init_decode_state(1, h, w, "meta", torch.bfloat16)) for h, w in ((40, 72), (60, 104), (90, 160))
    ]
    assert kept == [831, 1801, 4156]
    assert mebibytes(real.init_encode_state(1, 60, 104, "meta", torch.bfloat16)) == 1069
    assert real.spatial_scale == 8
    assert all(earlier < later for earlier, later in pairwise(kept))


def test_the_scale_comes_from_the_layers_and_the_patch() -> None:
    with torch.device("meta"):
        assert WanVAEStream(AutoencoderKLWan(**WAN_2_1)).spatial_scale == 8
        assert WanVAEStream(AutoencoderKLWan(**WAN_2_2)).spatial_scale == 16


def test_wrong_sizes_are_refused_in_a_sentence(stream: WanVAEStream) -> None:
    state = stream.init_decode_state(1, H, W)
    with pytest.raises(ValueError, match=r"latents must be \(B, F, 4, h, w\)"):
        stream.decode_stream(torch.zeros(1, 2, 5, H, W), state)
    with pytest.raises(ValueError, match=r"latents must be"):
        stream.decode_stream(torch.zeros(1, 0, 4, H, W), state)
    with pytest.raises(ValueError, match=r"latents of 3x3.*init_decode_state\(1, 3, 3\)"):
        stream.decode_stream(torch.zeros(1, 2, 4, 3, 3), state)
    with pytest.raises(ValueError, match=r"init_encode_state\(1, 2, 8\)"):
        stream.encode_stream(pixels(stream, 1), state)
    state = stream.init_encode_state(1, H, W)
    with pytest.raises(ValueError, match="1 \\+ a multiple of 4 pixel frames, got 4"):
        stream.encode_stream(pixels(stream, 4), state)
    _, state = stream.encode_stream(pixels(stream, 1), state)
    with pytest.raises(ValueError, match="takes a multiple of 4 pixel frames, got 5"):
        stream.encode_stream(pixels(stream, 5), state)
    with pytest.raises(ValueError, match=f"multiples of {stream.spatial_scale}"):
        stream.encode_stream(torch.zeros(1, 4, 3, stream.spatial_scale + 2, stream.spatial_scale), state)
    with pytest.raises(ValueError, match="pixels must be"):
        stream.encode_stream(torch.zeros(1, 4, 4, 16, 16), state)


def test_an_autoencoder_that_does_not_merge_four_frames_is_refused() -> None:
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match="must merge 4 frames into one, this config merges 2"),
    ):
        WanVAEStream(AutoencoderKLWan(**{**WAN_2_1, "temperal_downsample": [False, True, False]}))
