"""Keys and values of past frames: raw keys in slots, one allocation, and a rotated view made when it is read.

The store owns tensors and knows no policy: it carries out actions on slots and hands a pass the keys that its
ranges and positions name. Keys are kept un-rotated, so any position policy is exact for a film of any length. Of the
rotated view only those frames are made anew whose content, place or position changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from cache.averaging import MEAN, Means
from cache.buffers import Buffers, KVShape
from cache.layer import LayerMemory
from cache.rope import frame_tables, rotate
from cache.scoring import Scoring
from cache.selection import Selection
from cache.types import (
    NATIVE,
    Action,
    Average,
    Evict,
    FrameScorer,
    Move,
    Pin,
    Prune,
    Rebase,
    Slot,
    SlotRange,
    Slots,
    TokenScorer,
    Write,
)

_ROTATED_TOGETHER = 2**24
"""Numbers of one copy into the view: all layers of a small model go at once, to save calls, of a large one a few."""


class KVStore:
    """The memory of one lane.

    Slots stand in attention order in `entries`; `_physical` maps each to its place in the allocation, so that
    forgetting a frame moves no tensor.

    Args:
        shape: sizes.
        buffers: this lane's part of a stream's; of its own if None.
        lane: number of the lane, for the policies.
        scorer: of the cache policy, where content decides.
    """

    def __init__(
        self,
        shape: KVShape,
        buffers: Buffers | None = None,
        *,
        lane: int = 0,
        scorer: TokenScorer | FrameScorer | None = None,
    ) -> None:
        self.shape, self.lane = shape, lane
        self._remembered, view, self._staged = buffers or Buffers.allocate(shape)
        self._keys, self._values = self._remembered.unbind()
        self._view_keys, self._view_values = view.unbind()
        self._staged_keys, self._staged_values = self._staged.unbind()
        self.staged: tuple[Slot, ...] = ()
        self._biased: tuple[tuple[SlotRange, ...], Tensor] | None = None
        self._layers: tuple[tuple[int, ...], list[LayerMemory]] = (), []
        self._means = Means(self._keys, self._values)
        self._selection = self._scoring = None
        if isinstance(scorer, TokenScorer):
            self._selection = Selection(scorer, self._keys, self._values, shape.columns)
        elif scorer is not None:
            self._scoring = Scoring(scorer, self._remembered)
        self.reset()

    def reset(self) -> None:
        """Forget everything; the allocation stays."""
        self.entries: tuple[Slot, ...] = ()
        self._physical: list[int] = []
        self._free = list(range(self.shape.capacity))
        self.staged = ()
        self._viewed: list[tuple[int, int] | None] = []
        self._means.reset()
        if self._selection is not None:
            self._selection.reset()
        if self._scoring is not None:
            self._scoring.reset()

    def slots(self, cur: int, switches: tuple[int, ...] = ()) -> Slots:
        """What the policies look at."""
        scores = () if self._scoring is None else self._scoring.read()
        return Slots(self.lane, cur, self.entries, switches, scores)

    def apply(self, action: Action) -> None:
        """Carry out what a cache or switch policy asked; Write takes from what the last pass staged."""
        match action:
            case Write():
                self._write(action)
            case Evict(slots):
                self._free += [self._physical[i] for i in slots]
                self._close_ranks([i for i in range(len(self.entries)) if i not in slots])
            case Move(slot, to):
                order = [i for i in range(len(self.entries)) if i != slot]
                self._close_ranks([*order[:to], slot, *order[to:]])
            case Pin(slots, tag):
                self._mark(slots, tag=tag)
            case Rebase(slots, base):
                self._mark(slots, base=base)
            case Average():
                self._average(action)
            case Prune():
                self._prune(action)
            case _:
                raise ValueError(f"a store of keys cannot carry out {action!r}: the engine loop has to")

    def _close_ranks(self, order: Sequence[int]) -> None:
        """Let these slots stand in this order, and no others."""
        self._physical = [self._physical[i] for i in order]
        self.entries = tuple(self.entries[i] for i in order)
        if self._scoring is not None:
            self._scoring.moved()

    def _mark(self, slots: range, **changes: object) -> None:
        self.entries = tuple(replace(e, **changes) if i in slots else e for i, e in enumerate(self.entries))  # type: ignore[arg-type]  # names of Slot's fields

    def _append(self, entry: Slot) -> None:
        if not self._free:
            raise ValueError(
                f"the memory holds its {self.shape.capacity} latent frames already: the cache policy must "
                "evict before it writes"
            )
        self._physical.append(self._free.pop(0))
        self._means.forget(self._physical[-1])
        self.entries = (*self.entries, entry)

    def _write(self, action: Write) -> None:
        tokens = self.shape.tokens
        staged_at = {slot.frame: index for index, slot in enumerate(self.staged)}
        for frame, slot in zip(action.frames, action.slots, strict=True):
            if slot > len(self.entries):
                raise ValueError(f"slot {slot} is beyond the end ({len(self.entries)}): slots are written in order")
            if slot == len(self.entries):
                self._append(Slot(frame))
            source = staged_at[frame]
            part = slice(source * tokens, (source + 1) * tokens)
            place = self._physical[slot]
            self._outdated([place])
            self._means.forget(place)
            self._remembered[:, :, :, place].copy_(self._staged[:, :, :, part])
            entry = replace(self.staged[source], tag=action.tag)
            self.entries = (*self.entries[:slot], entry, *self.entries[slot + 1 :])
            if self._selection is not None:
                self._selection.written(place, frame)
            if self._scoring is not None:
                self._scoring.written(place)

    def _average(self, action: Average) -> None:
        slots = list(action.slots)
        if action.into == len(self.entries):
            self._append(replace(self.entries[slots[0]], tag="mean"))
            self._means.fold(self._physical[-1], self._physical[slots.pop(0)], 1.0)
        for slot in slots:
            self._means.fold(self._physical[action.into], self._physical[slot], action.share)
            last = replace(self.entries[action.into], frame=self.entries[slot].frame)
            self.entries = (*self.entries[: action.into], last, *self.entries[action.into + 1 :])
        self._outdated([self._physical[action.into]])

    def _prune(self, action: Prune) -> None:
        if self._selection is None:
            raise ValueError("the memory cannot prune: its cache policy names no scorer of tokens")
        if action.keep >= len(action.slots):
            raise ValueError(f"prune keeps {action.keep} of {len(action.slots)} slots: keep fewer than there are")
        places = [self._physical[i] for i in action.slots]
        self._selection.ask(places, action.keep)
        self._outdated(places)
        self._free += places[action.keep :]
        gone = range(action.slots.start + action.keep, action.slots.stop)
        self._mark(range(action.slots.start, gone.start), frame=NATIVE, tag="kept", base=0)
        self._close_ranks([i for i in range(len(self.entries)) if i not in gone])

    def stage(self, frames: Sequence[Slot]) -> None:
        """Name what the last pass left in the staging area, frame by frame."""
        self.staged = tuple(frames)
        if self._selection is not None:
            self._selection.done()

    def measure(self) -> None:
        """Compare all frames with the newest one, if the policy asks for that and there is a new one."""
        if self._scoring is not None:
            self._scoring.measure(self._physical)

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
        if any((p == NATIVE) != (self.entries[i].tag == "kept") for i, p in zip(past, at, strict=True)):
            raise ValueError("tokens kept by content stand at their own frames only: place them at NATIVE")
        self._bring_up_to_date(list(zip(places, at, strict=True)))
        layers = self._views(len(past), len(own), frames, own[0])
        bias = self._bias(ranges, s.tokens)
        if bias is None and self._selection is None:
            return layers
        observers = [
            None if self._selection is None else self._observer(self._selection, layer, places)
            for layer in range(s.layers)
        ]
        return [layer._replace(bias=bias, observe=observe) for layer, observe in zip(layers, observers, strict=True)]

    def _views(self, past: int, own: int, frames: int, first: int) -> list[LayerMemory]:
        """Parts of the buffers, in latent frames; the passes of a chunk ask for the same ones over and over."""
        sizes = tuple(count * self.shape.tokens for count in (past, own, frames, first))
        if self._layers[0] != sizes:
            seen, left = slice(sizes[0] + sizes[1]), slice(sizes[2])
            self._layers = (
                sizes,
                [
                    LayerMemory(view_keys, view_values, staged_keys, staged_values, sizes[0], sizes[3])
                    for view_keys, view_values, staged_keys, staged_values in zip(
                        self._view_keys[:, :, seen],
                        self._view_values[:, :, seen],
                        self._staged_keys[:, :, left],
                        self._staged_values[:, :, left],
                        strict=True,
                    )
                ],
            )
        return self._layers[1]

    def _observer(self, selection: Selection, layer: int, places: Sequence[int]) -> Callable[[Tensor], None]:
        """Hands a layer's queries to the selection, and the view of what it chooses."""
        coming, tokens = selection.coming, self.shape.tokens
        first = places.index(coming[0]) if coming and coming[0] in places else 0
        if tuple(places[first : first + len(coming)]) != coming:
            raise ValueError("a pass that prunes sees all that it keeps, as one run: select these slots")
        part = slice(first * tokens, (first + len(coming)) * tokens)
        views = self._view_keys[layer, :, part], self._view_values[layer, :, part]
        return partial(selection.observe, layer, view_keys=views[0], view_values=views[1])

    def _outdated(self, places: Sequence[int]) -> None:
        """What the view shows of these places is no longer what is there."""
        self._viewed = [None if seen is not None and seen[0] in places else seen for seen in self._viewed]

    def _bring_up_to_date(self, wanted: list[tuple[int, int]]) -> None:
        """Let the view show these places at these positions, tokens kept by content each at its own frame.

        Frame by frame: how a product of complex numbers is rounded can depend on where it stands in the whole, and a
        film must not depend on what else had to be made. What a pass chooses as it runs the selection puts there.
        """
        if self._viewed == wanted:
            return
        s, selection = self.shape, self._selection
        together = max(1, _ROTATED_TOGETHER // (s.batch * s.tokens * s.heads * s.head_dim))
        before = self._viewed
        self._viewed = [*wanted]
        for index, (place, position) in enumerate(wanted):
            if selection is not None and place in selection.coming:
                self._viewed[index] = None
            elif index >= len(before) or before[index] != (place, position):
                part = slice(index * s.tokens, (index + 1) * s.tokens)
                for layer in range(0, s.layers, together):
                    layers = slice(layer, layer + together)
                    tables = self._tables(layers, place, position)
                    rotate(self._keys[layers, :, place], *tables, out=self._view_keys[layers, :, part])
                self._view_values[:, :, part].copy_(self._values[:, :, place])

    def _tables(self, layers: slice, place: int, position: int) -> tuple[Tensor, Tensor]:
        s, keys = self.shape, self._keys
        if position == NATIVE:
            assert self._selection is not None  # only a prune makes kept slots
            return self._selection.tables(layers, place)
        dtype = torch.promote_types(keys.dtype, torch.float32)
        return frame_tables(position, s.rows, s.columns, s.head_dim, keys.device, dtype)

    def _bias(self, ranges: Sequence[SlotRange], tokens: int) -> Tensor | None:
        if all(r.bias == 0.0 for r in ranges):
            return None
        if self._biased is None or self._biased[0] != tuple(ranges):
            per_key = [r.bias for r in ranges for _ in range(len(r) * tokens)]
            self._biased = tuple(ranges), torch.tensor(per_key, device=self._keys.device, dtype=self._keys.dtype)
        return self._biased[1]

    def logical(self, layer: int) -> tuple[list[int], Tensor, Tensor]:
        """Frame ids, raw keys and values [B, frames, T, N, D] in slot order; for tests and traces.

        What the last pass staged stands in place of what is remembered of the same frames, or behind.
        """
        s = self.shape
        staged = {slot.frame: index for index, slot in enumerate(self.staged)}
        frames: list[int] = []
        parts: list[tuple[Tensor, Tensor]] = []
        stage_k = self._staged_keys[layer].unflatten(1, (s.own, s.tokens))
        stage_v = self._staged_values[layer].unflatten(1, (s.own, s.tokens))
        for slot, place in zip(self.entries, self._physical, strict=True):
            at = staged.pop(slot.frame, None) if slot.tag in ("sink", "recent", "pin") else None
            frames.append(slot.frame)
            parts.append(
                (self._keys[layer][:, place], self._values[layer][:, place])
                if at is None
                else (stage_k[:, at], stage_v[:, at])
            )
        frames += staged
        parts += [(stage_k[:, at], stage_v[:, at]) for at in staged.values()]
        if not parts:
            return [], stage_k[:, :0], stage_v[:, :0]
        return frames, torch.stack([k for k, _ in parts], 1), torch.stack([v for _, v in parts], 1)

    def tokens(self, layer: int) -> Tensor:
        """Frame, row, column and uses of every remembered token in slot order, [B, slots * T, 4]; for tests."""
        if self._selection is None:
            raise ValueError("only a memory whose cache policy scores tokens knows them one by one")
        return self._selection.index[layer][:, self._physical].flatten(1, 2)

    def _tensors(self) -> dict[str, Tensor]:
        """All that lasts from chunk to chunk."""
        more = {} if self._selection is None else self._selection.tensors()
        return {"keys": self._keys, "values": self._values, **more}

    def snapshot(self) -> dict[str, object]:
        """A copy of the memory between chunks (staging is not part of it)."""
        return {
            "entries": self.entries,
            "physical": tuple(self._physical),
            "free": tuple(self._free),
            **{name: tensor.clone() for name, tensor in self._tensors().items()},
            **self._means.snapshot(),
            "scores": () if self._scoring is None else self._scoring.read(),
        }

    def restore(self, snapshot: dict[str, object]) -> None:
        """Copy a snapshot into the allocated buffers; the rotated view is stale after it."""
        ours = self._tensors()
        theirs = {name: tensor for name, tensor in snapshot.items() if isinstance(tensor, Tensor)}
        means = {name: theirs.pop(name) for name in [*theirs] if name.startswith(MEAN)}
        shapes = [{name: tuple(tensor.shape) for name, tensor in each.items()} for each in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the snapshot's memory is {shapes[0]}, this stream's is {shapes[1]}: "
                "restore it into a stream of the same preset, model and size"
            )
        for name, tensor in ours.items():
            tensor.copy_(theirs[name])
        self.entries = snapshot["entries"]  # type: ignore[assignment]  # written by snapshot() above
        self._physical = list(snapshot["physical"])  # type: ignore[call-overload]
        self._free = list(snapshot["free"])  # type: ignore[call-overload]
        self._means.restore(means)
        self.staged, self._viewed = (), []
        if self._selection is not None:
            self._selection.done()
        if self._scoring is not None:
            self._scoring.restore(snapshot["scores"])  # type: ignore[arg-type]
