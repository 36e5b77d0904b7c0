"""What the loop and video to video ask of an autoencoder: streams both ways, their memory passed in and out."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Autoencoder(Protocol):
    """Pixels [B, T, 3, H, W] in 0..1 to and from normalised latents [B, F, C, h, w]; AutoencoderTAEHV and WanVAEStream.

    Latent 0 of a stream is one pixel frame, each later one four. How a film is split into calls changes no picture
    beyond rounding. A state is a list of tensors whose sizes never change; the first counts the frames seen so far
    (latent ones where it decodes, pixel ones where it encodes), int64 on the CPU. No call changes a state it is given.
    """

    spatial_scale: int

    def init_decode_state(self, batch: int, h: int, w: int, device: torch.device | str = "cpu") -> list[Tensor]:
        """Memory before the first latent frame of h x w."""
        ...

    def decode_stream(self, latents: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Pixels of the next latent frames, and the new state."""
        ...

    def init_encode_state(self, batch: int, h: int, w: int, device: torch.device | str = "cpu") -> list[Tensor]:
        """Memory before the first pixel frame, for latents of h x w."""
        ...

    def encode_stream(self, pixels: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Latents of the next pixel frames, 1 + 4n of them in the first call and 4n in every later one; new state."""
        ...

    def unnormalised(self, latents: Tensor) -> Tensor:
        """The same latents [B, F, C, h, w] as the encoder made them, without the statistics taken off."""
        ...
