"""Keys and values of past frames: raw keys in slots, one allocation, and a rotated view made when it is read.

The store owns tensors and knows no policy: it carries out actions on slots and hands a pass the keys that its
ranges and positions name. Keys are kept un-rotated, so any position policy is exact for a film of any length. The
rotated view is rebuilt only when the policies' answer or the content changed: once a chunk, not once a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from cache.rope import rotary_tables, rotate
from cache.types import NATIVE, Action, Evict, Slot, SlotRange, Slots, Write


class LayerMemory(NamedTuple):
    """What one layer attends to, as plain tensors that the pass writes its own part of.

    `keys` and `values` are [B, K, N, D]: remembered frames first (keys already rotated), then room for the pass's
    own tokens from `own` on. `staged_keys` and `staged_values` [B, S, N, D] take what the pass produced, keys
    un-rotated. `first` is the first of its own tokens that the pass attends to. `bias` [K] is added to the logits.
    """

    keys: Tensor
    values: Tensor
    staged_keys: Tensor
    staged_values: Tensor
    own: int
    first: int = 0
    bias: Tensor | None = None


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


class KVStore:
    """The memory of one lane.

    Slots stand in attention order in `entries`; `_physical` maps each to its place in the allocation, so that
    forgetting a frame moves no tensor.

    Args:
        shape: sizes; everything is allocated here, once.
        lane: number of the lane, for the policies.
        device: where the tensors live.
        dtype: of keys and values.
    """

    def __init__(
        self,
        shape: KVShape,
        *,
        lane: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.shape, self.lane = shape, lane
        s = shape
        frames = (s.layers, s.batch, s.capacity, s.tokens, s.heads, s.head_dim)
        view = (s.layers, s.batch, (s.capacity + s.own) * s.tokens, s.heads, s.head_dim)
        staged = (s.layers, s.batch, s.own * s.tokens, s.heads, s.head_dim)
        self._keys = torch.zeros(frames, device=device, dtype=dtype)
        self._values = torch.zeros(frames, device=device, dtype=dtype)
        self._view_keys = torch.zeros(view, device=device, dtype=dtype)
        self._view_values = torch.zeros(view, device=device, dtype=dtype)
        self._staged_keys = torch.zeros(staged, device=device, dtype=dtype)
        self._staged_values = torch.zeros(staged, device=device, dtype=dtype)
        self.staged: tuple[Slot, ...] = ()
        self.reset()

    def reset(self) -> None:
        """Forget everything; the allocation stays."""
        self.entries: tuple[Slot, ...] = ()
        self._physical: list[int] = []
        self._free = list(range(self.shape.capacity))
        self.staged = ()
        self._viewed: object = None

    def slots(self, cur: int, switches: tuple[int, ...] = ()) -> Slots:
        """What the policies look at."""
        return Slots(self.lane, cur, self.entries, switches)

    def apply(self, action: Action) -> None:
        """Carry out what a cache or switch policy asked; Write takes from what the last pass staged."""
        if isinstance(action, Write):
            self._write(action)
        elif isinstance(action, Evict):
            inside = range(action.slots.start, action.slots.stop)
            self._free += [self._physical[i] for i in inside]
            self._physical = [p for i, p in enumerate(self._physical) if i not in inside]
            self.entries = tuple(e for i, e in enumerate(self.entries) if i not in inside)
        else:
            raise ValueError(f"a store of keys cannot carry out {action!r}: the engine loop has to")

    def _write(self, action: Write) -> None:
        tokens = self.shape.tokens
        staged_at = {slot.frame: index for index, slot in enumerate(self.staged)}
        for frame, slot in zip(action.frames, action.slots, strict=True):
            if slot > len(self.entries):
                raise ValueError(f"slot {slot} is beyond the end ({len(self.entries)}): slots are written in order")
            if slot == len(self.entries):
                if not self._free:
                    raise ValueError(
                        f"the memory holds its {self.shape.capacity} latent frames already: the cache policy must "
                        "evict before it writes"
                    )
                self._physical.append(self._free.pop(0))
                self.entries = (*self.entries, Slot(frame))
            source = staged_at[frame]
            part = slice(source * tokens, (source + 1) * tokens)
            place = self._physical[slot]
            self._keys[:, :, place].copy_(self._staged_keys[:, :, part])
            self._values[:, :, place].copy_(self._staged_values[:, :, part])
            entry = replace(self.staged[source], tag=action.tag)
            self.entries = (*self.entries[:slot], entry, *self.entries[slot + 1 :])
        self._viewed = None

    def stage(self, frames: Sequence[Slot]) -> None:
        """Name what the last pass left in the staging area, frame by frame."""
        self.staged = tuple(frames)

    def read(self, ranges: Sequence[SlotRange], positions: Sequence[int], frames: int) -> list[LayerMemory]:
        """What each layer attends to in a pass of `frames` own frames.

        Args:
            ranges: from the window policy; the last ones name own frames, which must be one run up to the end.
            positions: from the position policy, one a selected frame in order; NATIVE = the frame's own number.
            frames: latent frames of the pass.

        Returns:
            One LayerMemory a layer; tensors are views of the store's buffers, valid until the next `read`.
        """
        s, count = self.shape, len(self.entries)
        chosen = [i for r in ranges for i in range(r.start, r.stop)]
        past = [i for i in chosen if i < count]
        own = [i - count for i in chosen if i >= count]
        if not own or own != list(range(own[0], frames)):
            raise ValueError(f"a pass sees its own last frames as one run, got {own} of {frames}")
        if frames > s.own:
            raise ValueError(f"a pass of {frames} latent frames, but the store was built for {s.own}")
        places = tuple(self._physical[i] for i in past)
        at = tuple(self.entries[i].frame if p == NATIVE else p for i, p in zip(past, positions, strict=False))
        if self._viewed != (places, at):
            self._rotate_view(places, at)
            self._viewed = (places, at)
        start, length = len(past) * s.tokens, len(own) * s.tokens
        bias = self._bias(ranges, s.tokens)
        return [
            LayerMemory(
                self._view_keys[layer, :, : start + length],
                self._view_values[layer, :, : start + length],
                self._staged_keys[layer, :, : frames * s.tokens],
                self._staged_values[layer, :, : frames * s.tokens],
                start,
                own[0] * s.tokens,
                bias,
            )
            for layer in range(s.layers)
        ]

    def _rotate_view(self, places: tuple[int, ...], positions: tuple[int, ...]) -> None:
        if not places:
            return
        s, device, dtype = self.shape, self._keys.device, self._keys.dtype
        index = torch.tensor(places, device=device)
        table = torch.promote_types(dtype, torch.float32)
        cos, sin = rotary_tables(positions, s.rows, s.columns, s.head_dim, device=device, dtype=table)
        length = len(places) * s.tokens
        for layer in range(s.layers):
            raw = self._keys[layer].index_select(1, index).flatten(1, 2)
            self._view_keys[layer, :, :length].copy_(rotate(raw, cos, sin))
            self._view_values[layer, :, :length].copy_(self._values[layer].index_select(1, index).flatten(1, 2))

    def _bias(self, ranges: Sequence[SlotRange], tokens: int) -> Tensor | None:
        if all(r.bias == 0.0 for r in ranges):
            return None
        per_key = [r.bias for r in ranges for _ in range(len(r) * tokens)]
        return torch.tensor(per_key, device=self._keys.device, dtype=self._keys.dtype)

    def logical(self, layer: int) -> tuple[list[int], Tensor, Tensor]:
        """Frame ids, raw keys and values [B, frames, T, N, D] in slot order: remembered, then staged new ones."""
        s, index = self.shape, torch.tensor(self._physical, device=self._keys.device, dtype=torch.long)
        frames = [slot.frame for slot in self.entries]
        parts_k, parts_v = [self._keys[layer][:, index]], [self._values[layer][:, index]]
        staged_k = self._staged_keys[layer].unflatten(1, (s.own, s.tokens))
        staged_v = self._staged_values[layer].unflatten(1, (s.own, s.tokens))
        for at, slot in enumerate(self.staged):
            if slot.frame in frames[: len(self.entries)]:
                continue
            frames.append(slot.frame)
            parts_k.append(staged_k[:, at : at + 1])
            parts_v.append(staged_v[:, at : at + 1])
        return frames, torch.cat(parts_k, 1), torch.cat(parts_v, 1)

    def snapshot(self) -> dict[str, object]:
        """A copy of the memory between chunks (staging is not part of it)."""
        return {
            "entries": self.entries,
            "physical": tuple(self._physical),
            "free": tuple(self._free),
            "keys": self._keys.clone(),
            "values": self._values.clone(),
        }

    def restore(self, snapshot: dict[str, object]) -> None:
        """Copy a snapshot into the allocated buffers; the rotated view is stale after it."""
        keys, values = snapshot["keys"], snapshot["values"]
        assert isinstance(keys, Tensor)
        assert isinstance(values, Tensor)
        if keys.shape != self._keys.shape:
            raise ValueError(
                f"the snapshot's memory is {tuple(keys.shape)}, this stream's is {tuple(self._keys.shape)}: "
                "restore it into a stream of the same preset, model and size"
            )
        self._keys.copy_(keys)
        self._values.copy_(values)
        self.entries = snapshot["entries"]  # type: ignore[assignment]  # written by snapshot() above
        self._physical = list(snapshot["physical"])  # type: ignore[call-overload]
        self._free = list(snapshot["free"])  # type: ignore[call-overload]
        self.staged, self._viewed = (), None
