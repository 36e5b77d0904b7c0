"""What passes read and leave behind: one allocation for all lanes of a stream, of which every store holds its part.

Lanes lie side by side in the batch, so that rows of several lanes that see equally many frames can go through the model
in one forward without a key being copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from cache.kv_shape import KVShape
from cache.layer import LayerMemory


class _Staging:
    """Room for what the longest pass leaves, [2, layers, B, S, N, D]; allocated when a pass needs it."""

    def __init__(self, shape: KVShape, batch: int, device: torch.device | str, dtype: torch.dtype) -> None:
        self._sizes = (2, shape.layers, batch, shape.own * shape.tokens, shape.heads, shape.head_dim)
        self._device, self._dtype = device, dtype
        self.nbytes = 0

    @cached_property
    def held(self) -> Tensor:
        room = torch.zeros(self._sizes, device=self._device, dtype=self._dtype)
        self.nbytes = room.nbytes
        return room


class Buffers:
    """What passes read, and what they leave that has to wait, of some lanes.

    Keys come first and values second: most of what is done to the one is done to the other, in one call.

    Args:
        view: what they read, [2, layers, B, K, N, D], remembered frames first; with one layer where each has to make
            its own anew.
        staging: of all lanes.
        part: of all lanes' batch.
    """

    def __init__(self, view: Tensor, staging: _Staging, part: slice) -> None:
        self.view, self._staging, self._part = view, staging, part

    @classmethod
    def allocate(
        cls, shape: KVShape, lanes: int = 1, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Self:
        """Zeros for so many lanes of this shape."""
        batch, layers = lanes * shape.batch, shape.view_layers(lanes, dtype.itemsize)
        sizes = (2, layers, batch, shape.seen * shape.tokens, shape.heads, shape.head_dim)
        view = torch.zeros(sizes, device=device, dtype=dtype)
        return cls(view, _Staging(shape, batch, device, dtype), slice(batch))

    def lane(self, number: int, batch: int) -> Buffers:
        """The part of one lane of `batch` films."""
        part = slice(number * batch, (number + 1) * batch)
        return Buffers(self.view[:, :, part], self._staging, part)

    @property
    def staged(self) -> Tensor:
        """What a pass leaves that has to wait, [2, layers, B, S, N, D]; allocated when it is first asked for."""
        return self._staging.held[:, :, self._part]

    @property
    def nbytes(self) -> int:
        """Bytes allocated, of all lanes."""
        return self.view.nbytes + self._staging.nbytes

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
        films, seen = first.keys.shape[:2]
        part = slice(lanes[0] * films, (lanes[0] + len(lanes)) * films)
        keys, values = self.view[:, :, part, :seen]
        one = len(keys) < len(rows[0])
        waits = next((each[0].staged_keys for each in rows if each[0].staged_keys is not None), None)
        staged = None if waits is None else self._staging.held[:, :, part, : waits.shape[1]]
        return [
            LayerMemory(
                keys[0 if one else layer],
                values[0 if one else layer],
                None if staged is None else staged[0, layer],
                None if staged is None else staged[1, layer],
                first.own,
                first.first,
                fill=_each([memories[layer].fill for memories in rows]),
                leave=_split([memories[layer].leave for memories in rows]),
            )
            for layer in range(len(rows[0]))
        ]


def _each(fills: Sequence[Callable[[bool], None] | None]) -> Callable[[bool], None] | None:
    """Let every lane bring its part of the view up to date."""
    known = [fill for fill in fills if fill is not None]

    def fill(chosen: bool) -> None:
        for one in known:
            one(chosen)

    return fill if known else None


def _split(
    leaves: Sequence[Callable[[Tensor, Tensor], None] | None],
) -> Callable[[Tensor, Tensor], None] | None:
    """Hand every lane its part of the batch."""
    if all(leave is None for leave in leaves):
        return None

    def leave(keys: Tensor, values: Tensor) -> None:
        parts = zip(leaves, keys.chunk(len(leaves)), values.chunk(len(leaves)), strict=True)
        for one, lane_keys, lane_values in parts:
            if one is not None:
                one(lane_keys, lane_values)

    return leave
