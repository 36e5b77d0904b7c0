"""The TAEHV-type autoencoder: its recorded trace, and streams that equal whole clips."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from models.taehv import AutoencoderTAEHV

GOLDEN = Path(os.environ.get("RIVULET_GOLDEN") or Path(__file__).parents[1] / "golden")
LAYOUTS: dict[str, dict[str, Any]] = {
    "taehv": {
        "latent_channels": 4,
        "encoder_widths": (6, 6, 6, 6),
        "decoder_widths": (8, 6, 6, 4),
        "encoder_blocks": (1, 2, 1),
        "decoder_blocks": (2, 1, 1),
    },
    "shuffle": {
        "latent_channels": 4,
        "patch_size": 2,
        "encoder_widths": (6, 6, 8),
        "decoder_widths": (8, 6, 4),
        "encoder_blocks": (1, 2),
        "decoder_blocks": (2, 1),
        "time_downscale": (2, 2),
        "time_upscale": (2, 2),
        "upsample": "shuffle",
        "latents_mean": (0.1, -0.2, 0.3, 0.0),
        "latents_std": (0.5, 2.0, 1.0, 0.7),
    },
    "together": {
        "latent_channels": 4,
        "patch_size": 4,
        "encoder_widths": (6, 8),
        "decoder_widths": (8, 5),
        "encoder_blocks": (2,),
        "decoder_blocks": (2,),
        "time_downscale": (4,),
        "time_upscale": (4,),
        "upsample": "together",
    },
}
SIDE = 16


def build(layout: str) -> AutoencoderTAEHV:
    torch.manual_seed(1)
    return AutoencoderTAEHV(**LAYOUTS[layout]).eval().double()


@pytest.fixture(params=LAYOUTS, scope="module")
def model(request: pytest.FixtureRequest) -> AutoencoderTAEHV:
    return build(request.param)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stream(model: AutoencoderTAEHV, latents: torch.Tensor, cuts: list[int]) -> torch.Tensor:
    state = model.init_decode_state(latents.shape[0], *latents.shape[-2:])
    parts = []
    for start, stop in zip([0, *cuts], [*cuts, latents.shape[1]], strict=True):
        pixels, state = model.decode_stream(latents[:, start:stop], state)
        parts.append(pixels)
    return torch.cat(parts, dim=1)


@pytest.mark.skipif(not (GOLDEN / "taehv_w21.json").exists(), reason="no taehv trace in RIVULET_GOLDEN")
@torch.no_grad()
def test_the_released_layout_gives_the_recorded_numbers_whole_and_streamed() -> None:
    sidecar = json.loads((GOLDEN / "taehv_w21.json").read_text(encoding="utf-8"))
    trace = load_file(GOLDEN / "taehv_w21.safetensors")
    model = AutoencoderTAEHV(**sidecar["constructor"]).eval()
    weights = {}
    for key, shape in sidecar["keys"].items():
        scale = 0.7 * np.sqrt(2 / np.prod(shape[1:])) if len(shape) == 4 else 0.05
        draws = np.random.Generator(np.random.Philox(key=zlib.crc32(key.encode()))).standard_normal(shape)
        weights[key] = torch.from_numpy((draws * scale).astype(np.float32))
    model.load_state_dict(weights, strict=True)
    close = {"rtol": 0.0, "atol": 1e-5}
    torch.testing.assert_close(model.encode(trace["in.pixels"]), trace["out.latents"], **close)
    torch.testing.assert_close(model.decode_raw(trace["in.latents"]), trace["out.decoder_raw"], **close)
    torch.testing.assert_close(model.decode(trace["in.latents"]), trace["out.pixels"], **close)
    torch.testing.assert_close(stream(model, trace["in.latents"], [1, 3]), trace["out.pixels"], **close)
    assert trace["out.decoder_raw"].std() > 0.1


@torch.no_grad()
@settings(max_examples=12)
@given(cuts=st.sets(st.integers(1, 5)))
def test_any_split_of_a_stream_decodes_to_the_whole_clip(cuts: set[int]) -> None:
    for layout in LAYOUTS:
        model = build(layout)
        latents = noise(2, 6, 4, 2, 3)
        whole = model.decode(latents)
        assert whole.shape[1] == 4 * 6 - 3
        assert whole.std() > 1e-3
        assert (stream(model, latents, sorted(cuts)) - whole).abs().max() < 1e-10


@torch.no_grad()
def test_the_first_latent_is_one_pixel_frame_and_later_ones_four(model: AutoencoderTAEHV) -> None:
    state = model.init_decode_state(1, 2, 2)
    counts = []
    for frame in range(3):
        pixels, state = model.decode_stream(noise(1, 1, 4, 2, 2, seed=frame), state)
        counts.append(pixels.shape[1])
    assert counts == [1, 4, 4]
    assert pixels.shape[-1] == 2 * model.spatial_scale


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[1], [1, 5], [5, 9], [13]])
def test_any_split_of_a_stream_encodes_to_the_front_padded_clip(model: AutoencoderTAEHV, cuts: list[int]) -> None:
    pixels = noise(1, 17, 3, SIDE, SIDE).sigmoid()
    whole = model.encode(pixels, pad="start")
    repeated = torch.cat([pixels[:, :1].expand(-1, 3, -1, -1, -1), pixels], dim=1)
    assert torch.equal(whole, model.encode(repeated))
    state = model.init_encode_state(1, *whole.shape[-2:])
    parts = []
    for start, stop in zip([0, *cuts], [*cuts, 17], strict=True):
        latents, state = model.encode_stream(pixels[:, start:stop], state)
        parts.append(latents)
    assert parts[0].shape[1] == (cuts[0] + 3) // 4
    assert (torch.cat(parts, dim=1) - whole).abs().max() < 1e-10


@torch.no_grad()
def test_state_keeps_its_size_is_not_modified_and_starts_anew_on_reset(model: AutoencoderTAEHV) -> None:
    first = model.init_decode_state(1, 2, 2)
    sizes = [tensor.shape for tensor in first]
    state, shown = first, []
    for frame in range(40):
        before = [tensor.clone() for tensor in state]
        pixels, after = model.decode_stream(noise(1, 1, 4, 2, 2, seed=frame), state)
        assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))
        assert [tensor.shape for tensor in after] == sizes
        state = after
        shown.append(pixels)
    assert int(state[0]) == 40
    assert all(
        t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in state
    )  # no view keeps a clip alive
    again, _ = model.decode_stream(noise(1, 1, 4, 2, 2, seed=0), model.init_decode_state(1, 2, 2))
    assert torch.equal(again, shown[0])
    late, _ = model.decode_stream(noise(1, 1, 4, 2, 2, seed=0), state)
    assert (late[:, -1:] - again).abs().max() > 1e-6  # the past is seen


@torch.no_grad()
def test_the_future_never_changes_the_past(model: AutoencoderTAEHV) -> None:
    latents = noise(1, 4, 4, 2, 2)
    changed = latents.clone()
    changed[:, 2] += 1
    one, other = model.decode(latents), model.decode(changed)
    assert torch.equal(one[:, :5], other[:, :5])
    assert (one[:, 5:9] - other[:, 5:9]).abs().max() > 1e-6


@torch.no_grad()
def test_latent_statistics_only_rescale(model: AutoencoderTAEHV) -> None:
    bare = AutoencoderTAEHV.from_config({**model.config, "latents_mean": None, "latents_std": None}).double()
    bare.load_state_dict(model.state_dict())
    pixels = noise(1, 5, 3, SIDE, SIDE).sigmoid()
    mean = torch.tensor(model.config.latents_mean or [0.0] * 4, dtype=torch.float64).view(4, 1, 1)
    std = torch.tensor(model.config.latents_std or [1.0] * 4, dtype=torch.float64).view(4, 1, 1)
    raw = bare.encode(pixels)
    torch.testing.assert_close(model.encode(pixels) * std + mean, raw, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.decode((raw - mean) / std), bare.decode(raw), rtol=0, atol=1e-12)


def test_training_forward_has_gradients_everywhere_and_pixels_of_the_clip(model: AutoencoderTAEHV) -> None:
    pixels = noise(1, 9, 3, SIDE, SIDE).sigmoid()
    made, latents = model(pixels)
    assert made.shape == pixels.shape
    assert latents.shape[1] == 3
    (made - pixels).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.zero_grad()


@torch.no_grad()
def test_a_saved_model_loads_equal(model: AutoencoderTAEHV, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = AutoencoderTAEHV.from_pretrained(tmp_path, torch_dtype=torch.float64)
    latents = noise(1, 2, 4, 2, 2)
    assert torch.equal(loaded.decode(latents), model.decode(latents))


def test_wrong_shapes_and_settings_are_refused_with_the_reason(model: AutoencoderTAEHV) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        model.encode(torch.zeros(1, 4, 3, 12, 16, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"\(B, F, 4, h, w\)"):
        model.decode(torch.zeros(1, 4, 3, 2, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="pad must be"):
        model.encode(torch.zeros(1, 4, 3, 16, 16, dtype=torch.float64), pad="left")
    state = model.init_encode_state(1, 2, 2)
    with pytest.raises(ValueError, match=r"1 \+ a multiple of 4 pixel frames, got 4"):
        model.encode_stream(torch.zeros(1, 4, 3, 16, 16, dtype=torch.float64), state)
    with pytest.raises(ValueError, match="same product"):
        AutoencoderTAEHV(time_downscale=(2, 2, 2))
    with pytest.raises(ValueError, match="encoder_widths must be 4"):
        AutoencoderTAEHV(encoder_widths=(8, 8))
    with pytest.raises(ValueError, match=r"nearest.*shuffle.*together"):
        AutoencoderTAEHV(upsample="cubic")
    with pytest.raises(ValueError, match="latents_std needs 16"):
        AutoencoderTAEHV(latents_std=(1.0,))
