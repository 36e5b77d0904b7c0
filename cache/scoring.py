"""How alike remembered frames and the newest one are: measured on the device, read by policies a chunk later.

The numbers travel to the host while the next chunk's text and plan are made and are waited for where a policy asks,
so that what it decides never depends on timing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cache.types import FrameScorer


class Scoring:
    """The last comparison of one store of keys.

    Args:
        scorer: compares frames.
        remembered: the store's keys and values, [2, layers, B, capacity, T, N, D].
    """

    def __init__(self, scorer: FrameScorer, remembered: Tensor) -> None:
        self._scorer, self._remembered = scorer, remembered
        self._means = self._averaged(slice(None))
        cuda = remembered.device.type == "cuda"
        self._host = torch.zeros(remembered.shape[3], pin_memory=cuda)
        self._arrived = torch.cuda.Event() if cuda else None
        self.reset()

    def reset(self) -> None:
        """Forget the last comparison and which frame is the newest."""
        self._newest: int | None = None
        self.moved()

    def moved(self) -> None:
        """Forget the last comparison: its entries are gone, or stand elsewhere."""
        self._places: tuple[int, ...] = ()
        self._known: tuple[float, ...] | None = ()

    def written(self, place: int) -> None:
        """The newest frame lies at `place`."""
        self._newest = place
        self._means[:, :, :, place].copy_(self._averaged(slice(place, place + 1))[:, :, :, 0])

    def _averaged(self, places: slice) -> Tensor:
        """Keys and values averaged over each frame's tokens, [2, layers, B, S, N, D]."""
        return self._remembered[:, :, :, places].mean(dim=4, dtype=torch.float32)

    def measure(self, places: Sequence[int]) -> None:
        """Compare the frames at `places` with the newest of them, if one was written since the last time."""
        if self._newest is None or self._newest not in places:
            return
        self._host.copy_(self._scorer.compare(self._means, self._means[:, :, :, self._newest]), non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()
        self._places, self._newest, self._known = tuple(places), None, None

    def read(self) -> tuple[float, ...]:
        """One number an entry, in the order it was measured; waits for it if it must."""
        if self._known is None:
            if self._arrived is not None:
                self._arrived.synchronize()
            scores = self._host.tolist()
            self._known = tuple(scores[place] for place in self._places)
        return self._known

    def restore(self, scores: Sequence[float]) -> None:
        """Go back to what was read before; the keys are already those of then."""
        self.reset()
        self._means = self._averaged(slice(None))
        self._known = tuple(scores)
