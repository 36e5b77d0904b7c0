"""Sizes of a memory of keys and values, and the bytes that it takes: one account for stores, tables and tests.

Torch-free, so that `rivulet bench cost` counts what a store allocates without allocating it.
"""

from __future__ import annotations

from dataclasses import dataclass

VIEW_KEPT = 2**26
"""Bytes up to which rotated keys of all layers are kept from pass to pass; a larger view holds one layer at a time."""


@dataclass(frozen=True, slots=True)
class KVShape:
    """Sizes of a store: `capacity` remembered frames, at most `own` frames in a pass, `rows` x `columns` tokens."""

    layers: int
    batch: int
    capacity: int
    own: int
    rows: int
    columns: int
    heads: int
    head_dim: int

    @property
    def tokens(self) -> int:
        return self.rows * self.columns

    @property
    def numbers(self) -> int:
        """Keys and values of one latent frame in one layer."""
        return 2 * self.batch * self.tokens * self.heads * self.head_dim

    @property
    def seen(self) -> int:
        """Latent frames a pass may see, its own included."""
        return self.capacity + self.own

    def view_layers(self, lanes: int, width: int) -> int:
        """Layers whose rotated keys have room at the same time, in numbers of `width` bytes: all of them, or one."""
        return self.layers if self._view(lanes, self.layers) * width <= VIEW_KEPT else min(1, self.layers)

    def _view(self, lanes: int, layers: int) -> int:
        return lanes * layers * self.seen * self.numbers

    def remembered(self, lanes: int, width: int) -> int:
        """Bytes of all that the memories of so many lanes hold, in numbers of `width` bytes."""
        return lanes * self.layers * self.capacity * self.numbers * width

    def allocated(self, lanes: int, width: int, *, staged: bool = False, means: int = 0) -> int:
        """Bytes that such memories take.

        Args:
            lanes: memories.
            width: bytes of a number.
            staged: what some passes leave has to wait until they are over.
            means: latent frames of a lane that are running means, kept in at least float32 as well.
        """
        beside = lanes * self.layers * self.numbers * (self.own * staged * width + means * max(4, width))
        return self.remembered(lanes, width) + self._view(lanes, self.view_layers(lanes, width)) * width + beside
