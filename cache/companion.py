"""What is kept beside a store's keys, such as running means or scores: told of every change, part of its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cache.slots import Change

if TYPE_CHECKING:
    from torch import Tensor


class Companion(Protocol):
    """Who inherits from it says only what it does; the rest does nothing.

    In a pass the order is: `changed` by what the cache policy asks beforehand, the layers, `staged`, `changed` by what
    it asks then, `over`.
    """

    def reset(self) -> None:
        """The memory forgets everything."""

    def changed(self, change: Change) -> None:
        """This is about to happen to the storage."""

    def staged(self) -> None:
        """The pass went through the layers."""

    def over(self, places: Sequence[int]) -> None:
        """The policies are done with the pass, and frames lie at `places`, in slot order."""

    def tensors(self) -> dict[str, Tensor]:
        """What lasts from chunk to chunk in buffers that stay; names and shapes never change."""
        return {}

    def data(self) -> dict[str, Any]:
        """What else lasts, as plain data and tensors that are replaced, under names of its own."""
        return {}

    def restored(self, data: Mapping[str, Any], places: Sequence[int]) -> None:
        """Storage and `tensors` are those of a snapshot, in which frames lay at `places`; `data` is its too."""
