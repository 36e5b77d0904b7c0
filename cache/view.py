"""What passes see of the past: remembered keys turned to the positions of the hour, values beside them.

Keys are kept un-rotated, so any position policy is exact for a film of any length. Of what was shown before only those
frames are turned anew whose content, place or position changed; where that would take much memory (cache/kv_shape.py),
all layers share the room of one, and each turns what it sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cache.buffers import Buffers
from cache.companion import Companion
from cache.kv_shape import KVShape
from cache.layer import LayerMemory
from cache.rope import frame_tables, rotate
from cache.selection import Selection
from cache.slots import Change, Choose, Fold, Put
from cache.storage import Storage
from cache.types import NATIVE, SlotRange

_ROTATED_TOGETHER = 2**24
"""Numbers of one copy into the view: all layers of a small model go at once, to save calls, of a large one a few."""


class RotatedView(Companion):
    """The view of one lane.

    Args:
        shape: sizes.
        buffers: this lane's part of a stream's.
        storage: where the un-rotated keys are.
        selection: which tokens stand in slots kept by content, where a cache policy scores tokens.
    """

    def __init__(self, shape: KVShape, buffers: Buffers, storage: Storage, selection: Selection | None) -> None:
        self._shape, self._storage, self._selection = shape, storage, selection
        self._keys, self._values = buffers.view.unbind()
        self._whole = len(self._keys) == shape.layers
        self._shown: list[tuple[int, int] | None] = []
        self._wanted: list[tuple[int, int]] = []
        self._biased: tuple[tuple[SlotRange, ...], Tensor] | None = None
        self._layers: tuple[tuple[int, ...], list[LayerMemory]] = (), []

    def reset(self) -> None:
        self._shown = []

    def changed(self, change: Change) -> None:
        match change:
            case Put(place=place) | Fold(into=place):
                self._outdated([place])
            case Choose(candidates, _):
                self._outdated(candidates)
            case _:
                pass

    def restored(self, data: Mapping[str, Any], places: Sequence[int]) -> None:
        self._shown = []

    def _outdated(self, places: Sequence[int]) -> None:
        """What the view shows of these places is no longer what is there."""
        self._shown = [None if seen is not None and seen[0] in places else seen for seen in self._shown]

    def show(self, wanted: list[tuple[int, int]]) -> None:
        """Let the view show these places at these positions, tokens kept by content each at its own frame.

        Frame by frame: how a product of complex numbers is rounded can depend on where it stands in the whole, and a
        film must not depend on what else had to be made. What a pass chooses as it runs the selection puts there.
        """
        self._wanted = wanted
        if self._shown == wanted or not self._whole:
            return
        s, selection = self._shape, self._selection
        together = max(1, _ROTATED_TOGETHER // (s.batch * s.tokens * s.heads * s.head_dim))
        before = self._shown
        self._shown = [*wanted]
        for index, (place, position) in enumerate(wanted):
            if selection is not None and place in selection.coming:
                self._shown[index] = None
            elif index >= len(before) or before[index] != (place, position):
                part = slice(index * s.tokens, (index + 1) * s.tokens)
                for layer in range(0, s.layers, together):
                    layers = slice(layer, layer + together)
                    self._turn(layers, place, position, self._keys[layers, :, part], self._values[layers, :, part])

    def _turn(self, layers: slice, place: int, position: int, keys: Tensor, values: Tensor) -> None:
        """Bring one frame into the view."""
        held = self._storage.read(place, layers)
        rotate(held[0], *self._tables(layers, place, position), out=keys)
        values.copy_(held[1])

    def _fill(self, layer: int, chosen: bool) -> None:
        """Bring what this layer sees into a view that all layers share.

        Args:
            layer: its number.
            chosen: tokens that this pass chooses are there already.
        """
        tokens, coming = self._shape.tokens, () if chosen or self._selection is None else self._selection.coming
        only = slice(layer, layer + 1)
        for index, (place, position) in enumerate(self._wanted):
            if place not in coming:
                part = slice(index * tokens, (index + 1) * tokens)
                self._turn(only, place, position, self._keys[:, :, part], self._values[:, :, part])

    def _tables(self, layers: slice, place: int, position: int) -> tuple[Tensor, Tensor]:
        s, keys = self._shape, self._keys
        if position == NATIVE:
            assert self._selection is not None  # only a prune makes kept slots
            return self._selection.tables(layers, place)
        dtype = torch.promote_types(keys.dtype, torch.float32)
        return frame_tables(position, s.rows, s.columns, s.head_dim, keys.device, dtype)

    def layers(
        self, places: tuple[int, ...], ranges: Sequence[SlotRange], own: int, frames: int, staged: Tensor | None
    ) -> list[LayerMemory]:
        """One memory a layer: what `show` brought there of `places`, then room for the pass's own frames.

        Args:
            places: of the frames shown, in order.
            ranges: of frames and their biases.
            own: how many of the pass's own frames it sees, its last ones.
            frames: latent frames of the pass.
            staged: where what it makes waits, [2, layers, B, S, N, D]; None if nothing does.
        """
        layers = self._parts(len(places), own, frames - own)
        if staged is not None:
            left = staged[:, :, :, : frames * self._shape.tokens]
            pairs = zip(layers, left[0], left[1], strict=True)
            layers = [each._replace(staged_keys=keys, staged_values=values) for each, keys, values in pairs]
        bias = self._bias(ranges)
        if bias is None and self._selection is None:
            return layers
        observers = [
            None if self._selection is None else self._observer(self._selection, layer, places)
            for layer in range(self._shape.layers)
        ]
        return [layer._replace(bias=bias, observe=observe) for layer, observe in zip(layers, observers, strict=True)]

    def _parts(self, past: int, own: int, first: int) -> list[LayerMemory]:
        """Parts of the buffers, in latent frames; the passes of a chunk ask for the same ones over and over."""
        sizes = tuple(count * self._shape.tokens for count in (past, own, first))
        if self._layers[0] != sizes:
            keys, values = self._keys[:, :, : sizes[0] + sizes[1]], self._values[:, :, : sizes[0] + sizes[1]]
            self._layers = (
                sizes,
                [
                    LayerMemory(
                        keys[layer if self._whole else 0],
                        values[layer if self._whole else 0],
                        None,
                        None,
                        sizes[0],
                        sizes[2],
                        fill=None if self._whole else partial(self._fill, layer),
                    )
                    for layer in range(self._shape.layers)
                ],
            )
        return self._layers[1]

    def _observer(self, selection: Selection, layer: int, places: Sequence[int]) -> Callable[[Tensor], None]:
        """Hands a layer's queries to the selection, and the view of what it chooses."""
        coming, tokens = selection.coming, self._shape.tokens
        first = places.index(coming[0]) if coming and coming[0] in places else 0
        if tuple(places[first : first + len(coming)]) != coming:
            raise ValueError("a pass that prunes sees all that it keeps, as one run: select these slots")
        part = slice(first * tokens, (first + len(coming)) * tokens)
        held = layer if self._whole else 0
        views = self._keys[held, :, part], self._values[held, :, part]
        return partial(selection.observe, layer, view_keys=views[0], view_values=views[1])

    def _bias(self, ranges: Sequence[SlotRange]) -> Tensor | None:
        if all(r.bias == 0.0 for r in ranges):
            return None
        if self._biased is None or self._biased[0] != tuple(ranges):
            per_key = [r.bias for r in ranges for _ in range(len(r) * self._shape.tokens)]
            self._biased = tuple(ranges), torch.tensor(per_key, device=self._keys.device, dtype=self._keys.dtype)
        return self._biased[1]
