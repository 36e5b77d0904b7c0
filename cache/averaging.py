"""Running means of remembered frames, kept exactly: a small share of a frame is less than half precision can hold.

In bfloat16 a mean near 10 moves in steps of 0.06, so shares of 0.01 would round to nothing and the mean stand still.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cache.companion import Companion
from cache.slots import Change, Fold, Put
from cache.storage import Storage


class Means(Companion):
    """The means of one store of keys, in at least float32.

    Args:
        storage: the store's, where the means are written too.
        dtype: of keys and values.
    """

    def __init__(self, storage: Storage, dtype: torch.dtype) -> None:
        self._storage = storage
        self._dtype = torch.promote_types(dtype, torch.float32)
        self._exact: dict[int, Tensor] = {}

    def reset(self) -> None:
        self._exact = {}

    def changed(self, change: Change) -> None:
        match change:
            case Put(place=place):
                self._exact.pop(place, None)  # something else lies there now
            case Fold():
                self._fold(change)
            case _:
                pass

    def _fold(self, fold: Fold) -> None:
        frame = self._frame(fold.place)
        if fold.begins:
            mean = frame
        else:
            mean = self._exact[fold.into] if fold.into in self._exact else self._frame(fold.into)
            mean.lerp_(frame, fold.share)
        self._exact[fold.into] = mean
        self._storage.write(fold.into, mean)

    def _frame(self, place: int) -> Tensor:
        return self._storage.read(place).to(self._dtype, copy=True)

    def data(self) -> dict[str, Any]:
        return {"means": {str(place): mean for place, mean in self._exact.items()}}

    def restored(self, data: Mapping[str, Any], places: Sequence[int]) -> None:
        self._exact = {int(place): mean for place, mean in data["means"].items()}
