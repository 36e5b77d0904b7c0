"""What the loop may ask of any autoencoder: streams both ways, whose memory is passed in and out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from models.autoencoder import Autoencoder
from models.wan_vae import WanVAEStream
from pipelines.types import pixel_range
from tests.tiny import CHANNELS, gap, tiny_autoencoder

H, W, LATENTS = 2, 3, 4


def wan() -> WanVAEStream:
    torch.manual_seed(1)
    spread = {"latents_mean": [0.1] * CHANNELS, "latents_std": [1.5] * CHANNELS}
    return WanVAEStream(AutoencoderKLWan(base_dim=4, z_dim=CHANNELS, num_res_blocks=1, **spread).eval())


@pytest.fixture(scope="module", params=[tiny_autoencoder, wan], ids=["taehv", "wan"])
def model(request: pytest.FixtureRequest) -> Autoencoder:
    made: Autoencoder = request.param()  # pyright holds both classes to the protocol where build.py pairs them
    assert isinstance(made, Autoencoder)
    return made


Call = Callable[[Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]]


def parts(call: Call, whole: Tensor, state: list[Tensor], split: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """A film in calls of so many frames; no call may change the state it is given, nor its sizes."""
    out: list[Tensor] = []
    for piece in whole.split(list(split), dim=1):
        before = [tensor.clone() for tensor in state]
        given, (made, state) = state, call(piece, state)
        assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
        assert [(t.shape, t.dtype) for t in state] == [(t.shape, t.dtype) for t in given]
        assert (state[0].dtype, state[0].device.type) == (torch.int64, "cpu")
        out.append(made)
    return torch.cat(out, dim=1), state


@torch.no_grad()
def test_a_film_encoded_in_parts_is_the_film_encoded_at_once_and_decodes_to_as_many_frames(model: Autoencoder) -> None:
    scale, frames = model.spatial_scale, pixel_range(LATENTS - 1).stop
    generator = torch.Generator().manual_seed(3)
    pixels = torch.rand(1, frames, 3, H * scale, W * scale, generator=generator)
    whole, end = parts(model.encode_stream, pixels, model.init_encode_state(1, H, W), [frames])
    assert whole.shape == (1, LATENTS, CHANNELS, H, W)
    assert int(end[0]) == frames
    for split in ([1, 4, 8], [5, 8], [9, 4]):
        piecewise, state = parts(model.encode_stream, pixels, model.init_encode_state(1, H, W), split)
        assert gap(piecewise, whole) < 1e-5
        assert all(gap(a, b) < 1e-4 for a, b in zip(state, end, strict=True))
    other = pixels.clone()
    other[:, :5] = 0.0
    forgot, _ = parts(model.encode_stream, other, model.init_encode_state(1, H, W), [frames])
    assert gap(forgot[:, 2:], whole[:, 2:]) > 1e-4, "nothing is remembered from call to call"

    shown, end = parts(model.decode_stream, whole, model.init_decode_state(1, H, W), [LATENTS])
    assert shown.shape == pixels.shape
    assert 0 <= float(shown.min()) < float(shown.max()) <= 1
    assert int(end[0]) == LATENTS
    for split in ([1, 3], [2, 1, 1]):
        assert gap(parts(model.decode_stream, whole, model.init_decode_state(1, H, W), split)[0], shown) < 1e-5


@torch.no_grad()
def test_latents_can_be_had_as_the_encoder_made_them() -> None:
    spread = {"latents_mean": [0.4, -0.3, 0.2, 0.1], "latents_std": [1.5, 0.7, 2.0, 1.0]}
    taehv = {name: tiny_autoencoder(**stats) for name, stats in (("with", spread), ("without", {}))}
    torch.manual_seed(1)
    vae = AutoencoderKLWan(base_dim=4, z_dim=CHANNELS, num_res_blocks=1, **spread).eval()
    plain = AutoencoderKLWan(
        base_dim=4, z_dim=CHANNELS, num_res_blocks=1, latents_mean=[0.0] * CHANNELS, latents_std=[1.0] * CHANNELS
    ).eval()
    plain.load_state_dict(vae.state_dict())
    stock = {"with": WanVAEStream(vae), "without": WanVAEStream(plain)}
    for pair in (taehv, stock):
        scale = pair["with"].spatial_scale
        pixels = torch.rand(1, 5, 3, H * scale, W * scale, generator=torch.Generator().manual_seed(3))
        latents, raw = (each.encode_stream(pixels, each.init_encode_state(1, H, W))[0] for each in pair.values())
        assert gap(latents, raw) > 1e-2
        assert gap(pair["with"].unnormalised(latents), raw) < 1e-5
