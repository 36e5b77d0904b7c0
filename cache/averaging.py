"""Running means of remembered frames, kept exactly: a small share of a frame is less than half precision can hold.

In bfloat16 a mean near 10 moves in steps of 0.06, so shares of 0.01 would round to nothing and the mean stand still.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

MEAN: Final = "mean."


class Means:
    """The means of one store of keys, in at least float32.

    Args:
        keys: the store's allocation, [layers, B, capacity, T, N, D].
        values: the same.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._keys, self._values = keys, values
        self._exact: dict[int, Tensor] = {}

    def reset(self) -> None:
        """Forget all."""
        self._exact = {}

    def forget(self, place: int) -> None:
        """Something else lies at `place` now."""
        self._exact.pop(place, None)

    def fold(self, into: int, place: int, share: float) -> None:
        """Move the mean at `into` by `share` of the way to the frame at `place`; what lies there begins a mean."""
        if into not in self._exact:
            self._exact[into] = self._frame(into)
        mean = self._exact[into].lerp_(self._frame(place), share)
        self._keys[:, :, into].copy_(mean[0])
        self._values[:, :, into].copy_(mean[1])

    def _frame(self, place: int) -> Tensor:
        exact = torch.promote_types(self._keys.dtype, torch.float32)
        return torch.stack([self._keys[:, :, place], self._values[:, :, place]]).to(exact)

    def snapshot(self) -> dict[str, Tensor]:
        """A copy by names that begin with MEAN."""
        return {f"{MEAN}{place}": mean.clone() for place, mean in self._exact.items()}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Go back to a snapshot."""
        self._exact = {int(name.removeprefix(MEAN)): mean.clone() for name, mean in snapshot.items()}
