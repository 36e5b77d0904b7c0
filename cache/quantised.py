"""Keys and values in 8 or 4 bits: keys by channel over a frame, values by token.

So does KIVI (Liu et al. 2024, arXiv 2402.02750). A frame is written when it is final, so nothing is rounded twice on
its way from noise to picture; a pass's own frames are seen as they are. Keys are stored before their rotary turn, where
their outliers stay in the same channels; a Hadamard rotation of each head (RotateKV) gains nothing beside steps by
channel (docs/log.md). What a layer sees is made whole again frame by frame, in the view: there is never a whole copy of
the memory beside it.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cache.kv_shape import KV_BITS, KVShape
from cache.storage import EVERY, NewStorage, Storage


class Quantised(Storage):
    """Codes; the lowest value and the step of every channel of a frame's keys, and the step of every token's values.

    Args:
        shape: sizes.
        bits: 8 or 4.
        device: where they lie.
        dtype: of keys and values, as they are read.
    """

    def __init__(
        self, shape: KVShape, bits: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        s, packed = shape, shape.head_dim * bits // 8
        if s.head_dim * bits % 8:
            raise ValueError(f"heads of {s.head_dim} channels cannot be packed in {bits} bits: use int8")
        frame = (s.layers, s.batch, s.capacity)
        self._bits, self._dtype = bits, dtype
        self._codes = torch.zeros((2, *frame, s.tokens, s.heads, packed), device=device, dtype=torch.uint8)
        self._low = torch.zeros((*frame, 1, s.heads, s.head_dim), device=device, dtype=torch.float32)
        self._key_step = torch.zeros_like(self._low)
        self._value_step = torch.zeros((*frame, s.tokens, s.heads, 1), device=device, dtype=torch.float16)

    def write(self, place: int, content: Tensor, layers: slice = EVERY) -> None:
        keys, values = content.float().unbind()
        most = 2**self._bits - 1
        low = keys.amin(dim=2, keepdim=True)
        step = (keys.amax(dim=2, keepdim=True) - low) / most
        codes = ((keys - low) / step.clamp_min(torch.finfo(torch.float32).tiny)).round_().clamp_(0, most)
        half = most // 2
        value_step = (values.abs().amax(dim=-1, keepdim=True) / half).clamp_min(1e-7).to(torch.float16)
        value_codes = (values / value_step.float()).round_().clamp_(-half, half) + half
        self._low[layers, :, place] = low
        self._key_step[layers, :, place] = step
        self._value_step[layers, :, place] = value_step
        self._codes[0, layers, :, place] = self._packed(codes)
        self._codes[1, layers, :, place] = self._packed(value_codes)

    def read(self, place: int, layers: slice = EVERY) -> Tensor:
        keys = self._unpacked(self._codes[0, layers, :, place]) * self._key_step[layers, :, place]
        keys += self._low[layers, :, place]
        values = self._unpacked(self._codes[1, layers, :, place]).sub_((2**self._bits - 1) // 2)
        values *= self._value_step[layers, :, place]
        return torch.stack([keys, values]).to(self._dtype)

    def tensors(self) -> dict[str, Tensor]:
        return {"codes": self._codes, "low": self._low, "key_step": self._key_step, "value_step": self._value_step}

    def _packed(self, codes: Tensor) -> Tensor:
        codes = codes.to(torch.uint8)
        return codes if self._bits == 8 else codes[..., 0::2] | (codes[..., 1::2] << 4)

    def _unpacked(self, packed: Tensor) -> Tensor:
        if self._bits < 8:
            packed = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
        return packed.float()


KV_STORAGES: dict[str, NewStorage] = {name: partial(Quantised, bits=bits) for name, bits in KV_BITS.items()}
"""What holds keys and values, by the name of `--kv_cache_dtype`."""
