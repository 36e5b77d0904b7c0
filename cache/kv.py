"""Keys and values of past frames, one lane's memory: slots in integers, a storage, and what is kept beside it.

The store knows no policy: it carries out actions on slots, and hands a pass the keys that its ranges and positions
name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from cache.averaging import Means
from cache.buffers import Buffers
from cache.companion import Companion
from cache.kv_shape import KVShape
from cache.layer import LayerMemory
from cache.layer_plan import EVERY, LayerPlan
from cache.scoring import Scoring
from cache.selection import Selection
from cache.slots import Put, SlotTable
from cache.storage import Dense, NewStorage
from cache.types import NATIVE, Action, FrameScorer, Prune, Slot, SlotRange, Slots, TokenScorer, Write
from cache.view import RotatedView

T = TypeVar("T")
Ends = tuple[Sequence[Action], Sequence[Slot]]
"""What a cache policy asks when a pass is over, and the frames that the pass leaves."""


class KVStore:
    """The memory of one lane.

    Args:
        shape: sizes.
        buffers: this lane's part of a stream's; of its own if None.
        lane: number of the lane, for the policies.
        scorer: of the cache policy, where content decides.
        storage: how keys and values are held.
    """

    def __init__(
        self,
        shape: KVShape,
        buffers: Buffers | None = None,
        *,
        lane: int = 0,
        scorer: TokenScorer | FrameScorer | None = None,
        storage: NewStorage = Dense,
    ) -> None:
        self.shape, self.lane = shape, lane
        buffers = buffers or Buffers.allocate(shape)
        self._buffers = buffers
        device, dtype = buffers.view.device, buffers.view.dtype
        self.table = SlotTable(shape.capacity)
        self._all = [range(shape.layers)]
        self.storage = storage(shape, device=device, dtype=dtype)
        self._selection = self._scoring = None
        if isinstance(scorer, TokenScorer):
            self._selection = Selection(scorer, self.storage, shape, device, dtype)
        elif scorer is not None:
            self._scoring = Scoring(scorer, self.storage, shape, device)
        self._view = RotatedView(shape, buffers, self.storage, self._selection)
        beside = (self._view, Means(self.storage, dtype), self._selection, self._scoring)
        self._companions: tuple[Companion, ...] = tuple(each for each in beside if each is not None)
        self.reset()

    @property
    def entries(self) -> tuple[Slot, ...]:
        """Slots in attention order."""
        return self.table.entries

    def reset(self) -> None:
        """Forget everything; the allocation stays."""
        self.table.reset()
        self.staged: tuple[Slot, ...] = ()
        self._placed: list[Put] | None = None  # what the last pass wrote itself
        self._ran = self._all
        for companion in self._companions:
            companion.reset()

    def slots(self, cur: int, switches: tuple[int, ...] = ()) -> Slots:
        """What the policies look at."""
        return Slots(self.lane, cur, self.table.entries, switches, self._scores())

    def _scores(self) -> tuple[float, ...]:
        return () if self._scoring is None else self._scoring.read()

    def apply(self, action: Action) -> None:
        """Carry out what a cache or switch policy asked; Write takes from what the last pass staged."""
        if isinstance(action, Prune) and self._selection is None:
            raise ValueError("the memory cannot prune: its cache policy names no scorer of tokens")
        if self._ran != self._all and isinstance(action, Write) and action.slots.stop > len(self.table.entries):
            raise ValueError(
                f"a pass that skips layers leaves no keys there for frames {list(action.frames)}, of which the memory "
                "holds not all: let it run all layers, or commit nothing"
            )
        tokens = self.shape.tokens
        for change in self.table.apply(action, self.staged):
            for companion in self._companions:
                companion.changed(change)
            if isinstance(change, Put) and self._placed is not None:
                if change not in self._placed:
                    raise ValueError(
                        f"frame {change.frame} was written elsewhere: ask for what was said before the pass"
                    )
            elif isinstance(change, Put):
                part = slice(change.source * tokens, (change.source + 1) * tokens)
                for layers in self._ran:
                    part_of = slice(layers.start, layers.stop)
                    self.storage.write(change.place, self._staged[:, part_of, :, part], part_of)

    def stage(self, frames: Sequence[Slot], plan: LayerPlan = EVERY) -> None:
        """Name what the last pass left in the staging area, frame by frame, in the layers that its plan let run."""
        if plan.skip and self._selection is not None and self._selection.coming:
            raise ValueError("a pass that prunes has to run all layers: each chooses tokens of its own")
        self.staged = tuple(frames)
        self._ran = plan.run(self.shape.layers) if plan.skip else self._all
        for companion in self._companions:
            companion.staged()

    def leave_elsewhere(self, actions: Sequence[Action], frames: Sequence[Slot]) -> None:
        """A pass that runs in another process leaves these frames: slots move, and their places are to be filled."""
        self._placed = self.table.foresee(actions, frames, ())
        if self._placed is None:
            raise ValueError("a pass that overwrites what it reads cannot run in another process")
        self.stage(frames)
        for action in actions:
            self.apply(action)

    def over(self) -> None:
        """The policies are done with the last pass: compare, where a policy asks for that, what it left."""
        for companion in self._companions:
            companion.over(self.table.places)

    @property
    def _staged(self) -> Tensor:
        return self._buffers.staged

    def read(
        self, ranges: Sequence[SlotRange], positions: Sequence[int], frames: int, ends: Ends | None = None
    ) -> list[LayerMemory]:
        """What each layer attends to in a pass of `frames` own frames.

        Args:
            ranges: from the window policy; the last ones name own frames, which must be one run up to the end.
            positions: from the position policy, one a selected frame in order; NATIVE = the frame's own number.
            frames: latent frames of the pass.
            ends: what will be asked when the pass is over, and the frames it leaves: then what is kept of it goes where
                it belongs as it is made, if it can. None: all that the pass makes waits.

        Returns:
            One LayerMemory a layer; tensors are views of the store's buffers, valid until the next `read`.
        """
        entries, count = self.table.entries, len(self.table.entries)
        chosen = [i for r in ranges for i in range(r.start, r.stop)]
        past = [i for i in chosen if i < count]
        own = [i - count for i in chosen if i >= count]
        if not own or own != list(range(own[0], frames)):
            raise ValueError(f"a pass sees its own last frames as one run, got {own} of {frames}")
        if frames > self.shape.own:
            raise ValueError(f"a pass of {frames} latent frames, but the store was built for {self.shape.own}")
        places = tuple(self.table.places[i] for i in past)
        at = tuple(entries[i].frame if p == NATIVE else p for i, p in zip(past, positions, strict=False))
        if any((p == NATIVE) != (entries[i].tag == "kept") for i, p in zip(past, at, strict=True)):
            raise ValueError("tokens kept by content stand at their own frames only: place them at NATIVE")
        self._view.show(list(zip(places, at, strict=True)))
        puts = None if ends is None else self.table.foresee(*ends, places)
        self._placed = puts
        layers = self._view.layers(places, ranges, len(own), frames, None if puts is not None else self._staged)
        if puts:
            layers = [each._replace(leave=partial(self._put, layer, puts)) for layer, each in enumerate(layers)]
        return layers

    def _put(self, layer: int, puts: Sequence[Put], keys: Tensor, values: Tensor) -> None:
        """Of what a pass made in a layer [B, S, N, D], write what the memory keeps."""
        tokens = self.shape.tokens
        for put in puts:
            part = slice(put.source * tokens, (put.source + 1) * tokens)
            self.storage.put(put.place, layer, keys[:, part], values[:, part])

    def logical(self, layer: int) -> tuple[list[int], Tensor, Tensor]:
        """Frame ids, raw keys and values [B, frames, T, N, D] in slot order; for tests and traces.

        What the last pass staged stands in place of what is remembered of the same frames, or behind.
        """
        s = self.shape
        ran = self._placed is None and any(layer in part for part in self._ran)
        staged = {slot.frame: index for index, slot in enumerate(self.staged) if ran}
        sizes = (2, s.batch, 0, s.tokens, s.heads, s.head_dim)
        left = self._buffers.view.new_empty(sizes)
        if staged:
            left = torch.unflatten(self._staged[:, layer], 2, (s.own, s.tokens))
        frames: list[int] = []
        parts: list[Tensor] = []
        for slot, place in zip(self.table.entries, self.table.places, strict=True):
            at = staged.pop(slot.frame, None) if slot.tag in ("sink", "recent", "pin") else None
            frames.append(slot.frame)
            held = self.storage.read(place, slice(layer, layer + 1))[:, 0]
            parts.append(held if at is None else left[:, :, at])
        frames += staged
        parts += [left[:, :, at] for at in staged.values()]
        keys, values = torch.stack(parts, 2) if parts else left[:, :, :0]
        return frames, keys, values

    def tokens(self, layer: int) -> Tensor:
        """Frame, row, column and uses of every remembered token in slot order, [B, slots * T, 4]; for tests."""
        if self._selection is None:
            raise ValueError("only a memory whose cache policy scores tokens knows them one by one")
        return self._selection.index[layer][:, self.table.places].flatten(1, 2)

    # ------------------------------------------------------------------ state

    def tensors(self) -> dict[str, Tensor]:
        """What lasts from chunk to chunk in buffers that stay."""
        return self._merged(lambda companion: companion.tensors()) | self.storage.tensors()

    def data(self) -> dict[str, Any]:
        """What else lasts; staging is not part of it."""
        more = self._merged(lambda companion: companion.data())
        table = self.table
        held = {"entries": table.entries, "places": tuple(table.places), "free": tuple(table.free)}
        return {**held, "scores": self._scores(), **more}

    def restored(self, data: Mapping[str, Any]) -> None:
        """`tensors` are those of a snapshot, and so is `data`."""
        self.table.entries = tuple(each if isinstance(each, Slot) else Slot(**each) for each in data["entries"])
        self.table.places, self.table.free = list(data["places"]), list(data["free"])
        self.staged, self._placed = (), None
        for companion in self._companions:
            companion.restored(data, self.table.places)

    def _merged(self, of: Callable[[Companion], dict[str, T]]) -> dict[str, T]:
        return {name: value for companion in self._companions for name, value in of(companion).items()}
