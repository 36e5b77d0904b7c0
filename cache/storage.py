"""Where remembered keys and values lie, frame by frame: written once, read by whoever needs them, and nothing else.

A class of its own, so that another one may hold the same in fewer bits: a store of keys asks for nothing but `write`,
`read` and `tensors`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from cache.kv_shape import KVShape

EVERY = slice(None)


class Storage(Protocol):
    """Un-rotated keys and values of `capacity` frames, by place. Keys come first and values second."""

    def write(self, place: int, content: Tensor, layers: slice = EVERY) -> None:
        """Put keys and values of one frame, [2, layers, B, T, N, D], at `place`; other layers keep theirs."""
        ...

    def put(self, place: int, layer: int, keys: Tensor, values: Tensor) -> None:
        """Put keys and values [B, T, N, D] of one frame in one layer at `place`."""
        self.write(place, torch.stack([keys, values])[:, None], slice(layer, layer + 1))

    def read(self, place: int, layers: slice = EVERY) -> Tensor:
        """Keys and values of the frame at `place`, [2, layers, B, T, N, D], not to be written to.

        It is good until the next `write`.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that lasts from chunk to chunk; names and shapes never change."""
        ...


class NewStorage(Protocol):
    """Allocates the storage of one lane."""

    def __call__(self, shape: KVShape, *, device: torch.device | str = "cpu", dtype: torch.dtype) -> Storage: ...


class Dense(Storage):
    """As they are, in one allocation [2, layers, B, capacity, T, N, D].

    Args:
        shape: sizes.
        device: where they lie.
        dtype: of keys and values.
    """

    def __init__(
        self, shape: KVShape, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        sizes = (2, shape.layers, shape.batch, shape.capacity, shape.tokens, shape.heads, shape.head_dim)
        self._held = torch.zeros(sizes, device=device, dtype=dtype)

    def write(self, place: int, content: Tensor, layers: slice = EVERY) -> None:
        self._held[:, layers, :, place].copy_(content)

    def put(self, place: int, layer: int, keys: Tensor, values: Tensor) -> None:
        self._held[0, layer, :, place].copy_(keys)
        self._held[1, layer, :, place].copy_(values)

    def read(self, place: int, layers: slice = EVERY) -> Tensor:
        return self._held[:, layers, :, place]

    def tensors(self) -> dict[str, Tensor]:
        keys, values = self._held.unbind()
        return {"keys": keys, "values": values}
