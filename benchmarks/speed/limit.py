"""Limit of an engine on a machine: the time that a chunk's own matrix products, convolutions and attention take alone.

They are written down while a chunk is made, and then run again, each on numbers of the same shape and order in memory,
with nothing between them. What an engine takes beyond that is its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from time import process_time
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_HEAVY = (
    "linear",
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "matmul",
    "convolution",
    "conv1d",
    "conv2d",
    "conv3d",
    "mkldnn_convolution",
    "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
)
"""Operations that are the work itself, by their names in torch."""


@dataclass(frozen=True, slots=True)
class Shaped:
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, value: Any) -> Any:
        """A tensor's; anything else as it is."""
        if not isinstance(value, Tensor):
            return value
        return cls(tuple(value.shape), tuple(value.stride()), value.dtype, value.device)

    @staticmethod
    def filled(value: Any) -> Any:
        """A tensor of small numbers; anything else as it is."""
        if not isinstance(value, Shaped):
            return value
        return torch.empty_strided(value.shape, value.stride, dtype=value.dtype, device=value.device).fill_(0.01)


class Recorded(TorchDispatchMode):
    """Writes down the heavy operations that run while it is on: `calls` counts equal ones together."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[Any, str]] = Counter()
        self._told: dict[tuple[Any, str], tuple[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _HEAVY:
            told = tree_map(Shaped.of, (args, kwargs or {}))
            key = func, repr(told)
            self.calls[key] += 1
            self._told[key] = told
        return func(*args, **(kwargs or {}))

    def seconds(self, *, clock: Callable[[], float] = process_time, times: int = 3) -> float:
        """What they take alone: of each the best of so many times, as often as it ran."""
        total = 0.0
        with torch.inference_mode():
            for key, count in self.calls.items():
                args, kwargs = tree_map(Shaped.filled, self._told[key])
                best = float("inf")
                for _ in range(times):
                    begun = clock()
                    key[0](*args, **kwargs)
                    best = min(best, clock() - begun)
                total += count * best
        return total
