"""Bytes that tensors hold, counted as they come and go: what a device's own accounting would say, on a CPU."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class TrackedMemory(TorchDispatchMode):
    """Counts storages that operations make while it is on: `held` now, `peak` at most since `reset`.

    What was there before counts once it is shown to `add`.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.held = self.peak = 0
        self._device = device
        self._known: set[int] = set()

    def add(self, *tensors: torch.Tensor) -> None:
        """Count tensors from here on, each storage once."""
        for tensor in tensors:
            self._see(tensor)

    def reset(self) -> None:
        """Begin the peak anew."""
        self.peak = self.held

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self._see(value)
        return result

    def _see(self, tensor: torch.Tensor) -> None:
        if tensor.device.type != self._device:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size
