"""What passes read and leave behind: one allocation for all lanes of a stream, of which every store holds its part.

Lanes lie side by side in the batch, so that rows of several lanes that see equally many frames can go through the model
in one forward without a key being copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cache.layer import LayerMemory


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


class Buffers(NamedTuple):
    """What passes read [2, layers, B, K, N, D], remembered frames first, and what they leave [2, layers, B, S, N, D].

    Keys come first and values second: most of what is done to the one is done to the other, in one call.
    """

    view: Tensor
    staged: Tensor

    @classmethod
    def allocate(
        cls, shape: KVShape, lanes: int = 1, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Buffers:
        """Zeros for so many lanes of this shape."""
        s, batch = shape, lanes * shape.batch

        def zeros(*sizes: int) -> Tensor:
            return torch.zeros((2, s.layers, batch, *sizes, s.heads, s.head_dim), device=device, dtype=dtype)

        return cls(zeros((s.capacity + s.own) * s.tokens), zeros(s.own * s.tokens))

    def lane(self, number: int, batch: int) -> Buffers:
        """The part of one lane of `batch` films."""
        return Buffers(*(tensor[:, :, number * batch : (number + 1) * batch] for tensor in self))

    def joint(self, rows: Sequence[Sequence[LayerMemory]], lanes: Sequence[int]) -> list[LayerMemory] | None:
        """One memory for the rows of these lanes, or None where a forward each is needed.

        They can share one if their lanes follow each other, they see equally many keys, without a bias, and none
        decides by content what stays.
        """
        first = rows[0][0]
        if [*lanes] != [*range(lanes[0], lanes[0] + len(lanes))]:
            return None
        sizes = {(memories[0].keys.shape, memories[0].own, memories[0].first) for memories in rows}
        if len(sizes) > 1 or any(memories[0].bias is not None or memories[0].observe is not None for memories in rows):
            return None
        assert first.staged_keys is not None
        films, seen = first.keys.shape[:2]
        part = slice(lanes[0] * films, (lanes[0] + len(lanes)) * films)
        own = first.staged_keys.shape[1]
        return [
            LayerMemory(
                self.view[0, layer, part, :seen],
                self.view[1, layer, part, :seen],
                self.staged[0, layer, part, :own],
                self.staged[1, layer, part, :own],
                first.own,
                first.first,
            )
            for layer in range(len(rows[0]))
        ]
