# pyright: standard
"""How alike remembered frames and the newest one are: measured on the device, read by policies a chunk later.

The numbers travel to the host while the next chunk's text and plan are made and are waited for where a policy asks,
so that what it decides never depends on timing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from cache.companion import Companion
from cache.host_copy import HostCopy
from cache.kv_shape import KVShape
from cache.slots import Change, Choose, Fold, Put, Reorder
from cache.storage import Storage
from cache.types import FrameScorer


class Scoring(Companion):
    """The last comparison of one store of keys.

    Args:
        scorer: compares frames.
        storage: of the store.
        shape: its sizes.
        device: where it lies.
    """

    def __init__(self, scorer: FrameScorer, storage: Storage, shape: KVShape, device: torch.device) -> None:
        self._scorer, self._storage = scorer, storage
        sizes = (2, shape.layers, shape.batch, shape.capacity, shape.heads, shape.head_dim)
        self._means = torch.zeros(sizes, device=device)
        self._scores = HostCopy(shape.capacity, device)
        self.reset()

    def reset(self) -> None:
        """Forget the last comparison and which frame is the newest."""
        self._newest: int | None = None
        self._stale: list[int] = []
        self._forget()

    def _forget(self) -> None:
        """The entries of the last comparison are gone, or stand elsewhere."""
        self._places: tuple[int, ...] = ()
        self._known: tuple[float, ...] | None = ()

    def changed(self, change: Change) -> None:
        match change:
            case Put(place=place):
                self._newest = place
                self._stale.append(place)
            case Fold(into=place):
                self._stale.append(place)
            case Reorder():
                self._forget()
            case Choose():
                pass  # which tokens these are is known in the layers only

    def over(self, places: Sequence[int]) -> None:
        """Compare all frames with the newest of them, if one was written since the last time."""
        self._average(self._stale)
        self._stale = []
        if self._newest is None or self._newest not in places:
            return
        self._scores.send(self._scorer.compare(self._means, self._means[:, :, :, self._newest]))
        self._places, self._newest, self._known = tuple(places), None, None

    def _average(self, places: Sequence[int]) -> None:
        """Keys and values averaged over the tokens of the frames there."""
        for place in places:
            self._means[:, :, :, place].copy_(self._storage.read(place).mean(dim=3, dtype=torch.float32))

    def read(self) -> tuple[float, ...]:
        """One number an entry, in the order it was measured; waits for it if it must."""
        if self._known is None:
            scores = self._scores.read()
            self._known = tuple(scores[place] for place in self._places)
        return self._known

    def restored(self, data: Mapping[str, Any], places: Sequence[int]) -> None:
        self.reset()
        self._average(places)
        self._known = tuple(data["scores"])
