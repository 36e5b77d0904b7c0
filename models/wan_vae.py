"""Streams over diffusers' Wan autoencoder: its feature cache as a flat list of tensors that is passed in and out.

The stock class keeps that cache on itself and clears it around every clip, so one module could serve one film only,
and no snapshot would see it. Its layers take the cache as an argument, though: this file hands them one per stream.

Dimension key: B streams, T pixel frames, F latent frames, C channels, H W pixels, h w latent size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AutoencoderKLWan,
    WanCausalConv3d,
    patchify,
    unpatchify,
)
from torch import Tensor, nn

State = list[Tensor]
FeatureCache = list[Any]
"""What the stock layers read and write: one entry a causal convolution, None, "Rep" or a tensor."""

Half = Literal["encoder", "decoder"]
_GROUP = 4  # pixel frames of every latent frame but the first


@dataclass(frozen=True, slots=True)
class _Slot:
    """One entry of the stock feature cache that is in use: where it is, and its size [B, C, frames, h * scale, .]."""

    index: int
    channels: int
    frames: int
    scale: int


class WanVAEStream(nn.Module):
    """The Wan 2.1 or 2.2 autoencoder, frame by frame and equal to the stock whole-clip calls.

    All streams share `vae`, whose own cache is never touched. In a stream latent 0 is one pixel frame and every later
    latent is four. Latents are normalised per channel with the statistics in the autoencoder's config.

    How a film is split into calls changes no bit. Against the stock whole clip it is bit-equal too where h * w is a
    multiple of 16, as at 480x832; at other sizes the stock 1x1 convolution over a whole clip at once rounds differently
    (on a CPU, in float32, by less than 1e-5).

    The stock cache has three kinds of entries, and a flat list of tensors says the same. A causal convolution that has
    seen nothing (None) pads with zeros, so zeros are its entry. A temporal upsampling is left out for latent 0 (None)
    and begins at latent 1 without a past ("Rep"); its entry is zeros too, and the count of frames tells the two apart.
    Zeroing the tensors of a running stream therefore makes it forget the picture and go on counting.

    Args:
        vae: the stock autoencoder, with weights. Its tiling and slicing settings play no part in a stream.

    Raises:
        ValueError: it does not merge four pixel frames into one latent, which the stock code takes for granted.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        merged = 2 ** sum(vae.config["temperal_downsample"])
        if merged != _GROUP:
            raise ValueError(f"temperal_downsample must merge {_GROUP} frames into one, this config merges {merged}.")
        self.vae = vae
        self.patch_size: int = vae.config["patch_size"] or 1
        self.latent_channels: int = vae.config["z_dim"]
        self._side = 2 ** (len(vae.config["dim_mult"]) - 1)  # latent cells to what the encoder sees, after patching
        self.spatial_scale: int = self._side * self.patch_size
        self._slots = {"encoder": self._find_slots("encoder"), "decoder": self._find_slots("decoder")}
        self.eval()

    # ------------------------------------------------------------------ streams

    def init_decode_state(
        self, batch: int, h: int, w: int, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> State:
        """Memory of a stream before its first latent frame, for latents of h x w.

        Returns:
            A flat list of tensors whose sizes never change: first a (1,) int64 count of frames already seen, on the
            CPU whatever `device` is (reading it never waits for a device), then the inputs that each causal
            convolution still needs. For the real model in bfloat16 that is 1801 MiB at 480x832, and as much again
            while a call makes the next state beside the last one.
        """
        return self._init_state("decoder", batch, h, w, device, dtype)

    def init_encode_state(
        self, batch: int, h: int, w: int, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> State:
        """Memory of an encoding stream before its first pixel frame; h and w are the latent's size."""
        return self._init_state("encoder", batch, h, w, device, dtype)

    @torch.no_grad()
    def decode_stream(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode the next latent frames of a stream, one at a time so that the split into calls changes no bit.

        Args:
            latents: (B, F, C, h, w), normalised; F >= 1.
            state: from `init_decode_state` or the last call; it is not modified.

        Returns:
            Pixels (B, T, 3, H, W) in 0..1, at least float32, one frame for the stream's first latent and four for
            each other, and the new state.
        """
        if latents.ndim != 5 or latents.shape[2] != self.latent_channels or latents.shape[1] < 1:
            raise ValueError(
                f"latents must be (B, F, {self.latent_channels}, h, w) with F >= 1, got {tuple(latents.shape)}."
            )
        batch, frames, _, h, w = latents.shape
        cache = self._unpack("decoder", state, (batch, h, w))
        seen = int(state[0])
        mean, std = self._statistics(latents)
        wide = latents.to(mean.dtype)
        z_BCFhw = (wide * std + mean).to(self.vae.dtype).transpose(1, 2)
        decoded: list[Tensor] = []
        for index, frame in enumerate(z_BCFhw.split(1, dim=2)):
            features = self.vae.post_quant_conv(frame)
            decoded.append(self.vae.decoder(features, feat_cache=cache, feat_idx=[0], first_chunk=seen + index == 0))
        raw = unpatchify(torch.cat(decoded, dim=2), self.patch_size).to(mean.dtype)
        pixels = (raw.clamp(-1.0, 1.0) * 0.5 + 0.5).transpose(1, 2)
        return pixels, [state[0] + frames, *self._pack("decoder", cache, (batch, h, w))]

    @torch.no_grad()
    def encode_stream(self, pixels: Tensor, state: State) -> tuple[Tensor, State]:
        """Encode the next pixel frames of a stream into the means of their latent distributions.

        Args:
            pixels: (B, T, 3, H, W) in 0..1; T = 1 + 4n in the first call, 4n in every later one.
            state: from `init_encode_state` or the last call; it is not modified.

        Returns:
            Normalised latents (B, F, C, h, w), at least float32, one for the very first frame and one for each group
            of four, and the new state.
        """
        if pixels.ndim != 5 or pixels.shape[2] != 3 or pixels.shape[1] < 1:
            raise ValueError(f"pixels must be (B, T, 3, H, W) with T >= 1, got {tuple(pixels.shape)}.")
        batch, frames, _, height, width = pixels.shape
        scale = self.spatial_scale
        if height % scale or width % scale:
            raise ValueError(f"Height and width must be multiples of {scale}, got {(height, width)}.")
        size = (batch, height // scale, width // scale)
        seen = int(state[0])
        first = 1 if seen == 0 else 0
        if (frames - first) % _GROUP:
            want = f"1 + a multiple of {_GROUP}" if first else f"a multiple of {_GROUP}"
            raise ValueError(f"This call of encode_stream takes {want} pixel frames, got {frames}.")
        cache = self._unpack("encoder", state, size)
        mean, std = self._statistics(pixels)
        x_BCTHW = (pixels.to(mean.dtype) * 2.0 - 1.0).to(self.vae.dtype).transpose(1, 2)
        x_BCTHW = patchify(x_BCTHW, self.patch_size)
        groups = [1] * first + [_GROUP] * ((frames - first) // _GROUP)
        encoded: list[Tensor] = []
        for group in x_BCTHW.split(groups, dim=2):
            moments = self.vae.quant_conv(self.vae.encoder(group, feat_cache=cache, feat_idx=[0]))
            encoded.append(moments.chunk(2, dim=1)[0])
        latents = (torch.cat(encoded, dim=2).to(mean.dtype).transpose(1, 2) - mean) / std
        return latents, [state[0] + frames, *self._pack("encoder", cache, size)]

    def unnormalised(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, F, C, h, w) as the encoder made them, at least float32."""
        mean, std = self._statistics(latents)
        return latents.to(mean.dtype) * std + mean

    # ------------------------------------------------------------------ parts

    def _find_slots(self, half: Half) -> tuple[_Slot, ...]:
        """Entries of the stock cache that are in use and their sizes, from a run of the stock code without data."""
        config: Any = self.vae.config
        with torch.device("meta"):
            twin = AutoencoderKLWan.from_config(config)
            assert isinstance(twin, AutoencoderKLWan)
            cache = _empty_cache(twin, half)
            for call in range(3):  # after the third call no entry grows any more
                if half == "decoder":
                    latent = torch.empty(1, config.z_dim, 1, 1, 1)
                    twin.decoder(latent, feat_cache=cache, feat_idx=[0], first_chunk=call == 0)
                else:
                    group = torch.empty(1, config.in_channels, 1 if call == 0 else _GROUP, self._side, self._side)
                    twin.encoder(group, feat_cache=cache, feat_idx=[0])
        return tuple(
            _Slot(index, entry.shape[1], entry.shape[2], entry.shape[3])
            for index, entry in enumerate(cache)
            if entry is not None  # 1x1 shortcuts are counted by the stock class, and need no past
        )

    def _init_state(
        self, half: Half, batch: int, h: int, w: int, device: torch.device | str, dtype: torch.dtype | None
    ) -> State:
        return [
            torch.zeros(1, dtype=torch.int64),
            *(
                torch.zeros(_shape(slot, (batch, h, w)), device=device, dtype=dtype or self.vae.dtype)
                for slot in self._slots[half]
            ),
        ]

    def _unpack(self, half: Half, state: State, size: tuple[int, int, int]) -> FeatureCache:
        """The stock cache of a stream; before its first frame every entry is None, as in the stock class."""
        slots = self._slots[half]
        wanted = [(1,), *(_shape(slot, size) for slot in slots)]
        if [tuple(tensor.shape) for tensor in state] != wanted:
            raise ValueError(
                f"The state is not one of a stream of {size[0]} with latents of {size[1]}x{size[2]}: begin with "
                f"init_{half[:-1]}_state({size[0]}, {size[1]}, {size[2]})."
            )
        cache = _empty_cache(self.vae, half)
        if int(state[0]):
            for slot, tensor in zip(slots, state[1:], strict=True):
                cache[slot.index] = tensor
        return cache

    def _pack(self, half: Half, cache: FeatureCache, size: tuple[int, int, int]) -> State:
        """The tensors of a stock cache, each at its full size."""
        like = next(entry for entry in cache if isinstance(entry, Tensor))
        state: State = []
        for slot in self._slots[half]:
            entry = cache[slot.index]
            if not isinstance(entry, Tensor):  # "Rep": an upsampling without a past
                entry = like.new_zeros(_shape(slot, size))
            elif entry.shape[2] < slot.frames:  # after one frame; the convolution would pad with zeros itself
                missing = (*entry.shape[:2], slot.frames - entry.shape[2], *entry.shape[3:])
                entry = torch.cat([entry.new_zeros(missing), entry], dim=2)
            state.append(entry)
        return state

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread of the latents, (1, 1, C, 1, 1), in at least float32."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        config: Any = self.vae.config
        return (
            _row(tuple(config.latents_mean), like.device, dtype),
            _row(tuple(config.latents_std), like.device, dtype),
        )


def _empty_cache(vae: AutoencoderKLWan, half: Half) -> FeatureCache:
    return [None] * sum(isinstance(module, WanCausalConv3d) for module in getattr(vae, half).modules())


def _shape(slot: _Slot, size: tuple[int, int, int]) -> tuple[int, ...]:
    batch, h, w = size
    return (batch, slot.channels, slot.frames, h * slot.scale, w * slot.scale)


@lru_cache(maxsize=32)
def _row(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Kept, so that a steady stream copies none to the device."""
    return torch.tensor(values, device=device, dtype=dtype).view(1, 1, -1, 1, 1)
