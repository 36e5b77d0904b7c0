"""A causal Wan, a text encoder and an autoencoder small enough to run hundreds of chunks in a second.

Their seeded random weights are drawn wide, so that text, memory and noise each move a result by far more than
rounding: the identity tests measure that too, since a constant model would satisfy most identities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache.fifo import SinkWindow
from cache.positions import Absolute
from cache.switches import Recache
from cache.types import CachePolicy, NoisePlan, PositionPolicy, Step, SwitchPolicy, WindowPolicy
from cache.windows import AllRemembered
from models.taehv import AutoencoderTAEHV
from models.wan import CausalWanTransformer3DModel
from pipelines.conditioning import Conditioner
from pipelines.engine import Engine, Policies
from pipelines.streaming import Observer, Stream
from pipelines.types import Controls
from schedulers.flow_match import FlowMatchSchedule
from schedulers.noise import Address, AddressedNoise, NoiseSource
from schedulers.serial import Serial

CHANNELS, HEIGHT, WIDTH = 4, 4, 6
"""Of a latent frame; height and width differ so that a swap of them shows."""
TEXT_LEN, TEXT_DIM = 5, 16
FOX, WOLF = Controls("a red fox runs"), Controls("a grey wolf")

CONFIG: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "text_dim": TEXT_DIM,
    "freq_dim": 32,
    "ffn_dim": 96,
    "num_layers": 3,
}
"""Arguments of diffusers' own WanTransformer3DModel; ours takes text_len as well."""


def widen(model: torch.nn.Module, seed: int, gain: float = 1.5) -> None:
    """Seeded weights with a gain that keeps every part of the model felt in its output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "scale_shift_table" in name:
                weight.copy_(0.3 * noise)
            elif weight.ndim == 1:
                weight.copy_(0.1 * noise + ("norm" in name and name.endswith("weight")))
            else:
                weight.copy_(gain * noise / weight[0].numel() ** 0.5)


def tiny_transformer(
    *, dtype: torch.dtype = torch.float32, seed: int = 0, **config: Any
) -> CausalWanTransformer3DModel:
    """Three layers of 64 channels; `config` overrides constructor arguments."""
    model = CausalWanTransformer3DModel(**{**CONFIG, "text_len": TEXT_LEN, **config})
    widen(model, seed)
    return model.eval().requires_grad_(False).to(dtype)


def tiny_autoencoder(**config: Any) -> AutoencoderTAEHV:
    """Three stages of a few channels; pixels are 8 times the latent's size."""
    small: dict[str, Any] = {
        "latent_channels": CHANNELS,
        "encoder_widths": (6, 6, 8, 8),
        "decoder_widths": (10, 8, 6, 6),
        "encoder_blocks": (1, 1, 1),
        "decoder_blocks": (1, 1, 1),
    }
    model = AutoencoderTAEHV(**{**small, **config})
    widen(model, 7, gain=1.0)
    with torch.no_grad():
        model.decoder[-1].weight.mul_(0.6)
        model.decoder[-1].bias.fill_(0.5)  # a grey picture: clamped pixels would hide differences
    return model.eval().requires_grad_(False)


class FakeText:
    """Embeddings that depend on the words and on nothing else; rows past the prompt are zero."""

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, prompts: Sequence[str]) -> Tensor:
        self.calls += 1
        out = torch.zeros(len(prompts), TEXT_LEN, TEXT_DIM)
        for row, prompt in enumerate(prompts):
            key = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:16], "little")
            count = min(TEXT_LEN, len(prompt.split()))
            noise = np.random.Generator(np.random.Philox(key=key)).standard_normal((count, TEXT_DIM))
            out[row, :count] = torch.from_numpy(2 * noise).float()
        return out


class ListeningNoise:
    """Addressed noise that writes down what was asked and what was given."""

    def __init__(self) -> None:
        self.asked: list[list[Address]] = []
        self.given: list[Tensor] = []
        self._source = AddressedNoise()

    def frames(self, addresses: Sequence[Address], shape: Sequence[int]) -> Tensor:
        self.asked.append(list(addresses))
        self.given.append(self._source.frames(addresses, shape))
        return self.given[-1]


def tiny_policies(
    *,
    levels: Sequence[float] = (1000.0, 600.0),
    chunk: int = 3,
    window: int = 9,
    sink: int = 3,
    step: Step = "renoise",
    shift: float = 5.0,
    plan: NoisePlan | None = None,
    cache: CachePolicy | None = None,
    view: WindowPolicy | None = None,
    position: PositionPolicy | None = None,
    switch: SwitchPolicy | None = None,
) -> Policies:
    """LongLive in small: two passes a chunk of 3, a window of 9 behind a sink of 3."""
    return Policies(
        plan=plan or Serial(tuple(levels), chunk=chunk, step=step),
        cache=cache or SinkWindow(window, sink),
        window=view or AllRemembered(),
        position=position or Absolute(),
        switch=switch or Recache(window, sink),
        schedule=FlowMatchSchedule(shift=shift),
    )


def tiny_engine(
    transformer: CausalWanTransformer3DModel | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    autoencoder: AutoencoderTAEHV | None = None,
    **policies: Any,
) -> Engine:
    """Tiny networks under `tiny_policies`."""
    transformer = transformer or tiny_transformer(dtype=dtype)
    return Engine(transformer, Conditioner(FakeText()), tiny_policies(**policies), autoencoder)


def tiny_stream(
    engine: Engine,
    *,
    seed: int = 0,
    stream: int = 0,
    batch: int = 1,
    noise: NoiseSource | None = None,
    observer: Observer | None = None,
    video: bool = False,
) -> Stream:
    """A film of 4 x 6 latents."""
    return Stream(
        engine,
        height=HEIGHT,
        width=WIDTH,
        seed=seed,
        stream=stream,
        batch=batch,
        noise=noise,
        observer=observer,
        video=video,
    )


def film(stream: Stream, controls: Sequence[Controls], *, decode: bool = False) -> list[str]:
    """Hashes of one chunk for each of the controls."""
    return [stream.next_chunk(each, decode=decode).sha256 for each in controls]


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference of two tensors of one shape (which broadcasting would hide)."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a - b).abs().max())
