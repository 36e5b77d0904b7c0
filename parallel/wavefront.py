"""Wavefront of chunks on several ranks: who runs which, and how keys get from each to all others.

Passes come in the plan's order, the youngest chunk of a tick first. What others leave in a tick is waited for when the
next tick begins: nobody sees it before. Every rank knows the integers of every pass, so slots move alike on all of
them, and what is sent is what the memory holds of a pass, however it holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cache.kv import KVStore
from cache.types import CachePolicy, Pass, Row, Slot
from parallel.link import Link
from parallel.parts import places_axis


class Wavefront:
    """One rank's end of it.

    Args:
        link: to the others.
        chunk: latent frames of each chunk.
        cache: the cache policy.
        store: the memory.
    """

    def __init__(self, link: Link, chunk: int, cache: CachePolicy, store: KVStore) -> None:
        self._link, self._chunk, self._cache, self._store = link, chunk, cache, store
        self._last = -1

    def frame_holder(self, frame: int, level: float, scene: int) -> int:
        """The rank that has a frame in flight; a finished one all have."""
        return self._owner(frame, scene) if level else 0

    def run(self, work: Pass, run: Callable[[Sequence[Row]], None], state: Any) -> None:
        link = self._link
        if work.kind not in ("denoise", "clean"):  # a replay: everybody runs it
            link.finish()
            run(work.rows)
            return
        (row,) = work.rows
        if row.frames.start >= self._last:  # a tick begins
            link.finish()
        self._last = row.frames.start
        owner = self._owner(row.frames.start, state.scene)
        if owner == link.rank:
            run(work.rows)
        else:
            self._follow(row, state)
        if row.commit:
            self._share_keys(row.commit, owner)
        if work.kind == "denoise" and row.to[-1] is None:  # finished: its picture is rank 0's, a replay everybody's
            self._share_latents(row.frames, owner, state.flight)
        if work.leave:  # the chunk's last pass, behind which anything may be asked
            link.finish()
            self._last = -1

    def _owner(self, frame: int, scene: int) -> int:
        return (frame - scene) // self._chunk % self._link.size

    def _follow(self, row: Row, state: Any) -> None:
        """Slots as the pass leaves them, which another rank runs."""
        store = self._store
        for action in self._cache.begin(row, store.slots(state.cur, state.switches)):
            store.apply(action)
        left = [Slot(f, prompt=row.text, level=level) for f, level in zip(row.frames, row.levels, strict=True)]
        store.leave_elsewhere(self._cache.end(row, store.slots(state.cur, state.switches)), left)

    def _share_keys(self, frames: range, owner: int) -> None:
        """What the memory holds of these frames, from the rank that has just written it."""
        at = {slot.frame: place for slot, place in zip(self._store.entries, self._store.table.places, strict=True)}
        places = [at[frame] for frame in frames]
        held = [(tensor, places_axis(name)) for name, tensor in self._store.storage.tensors().items()]
        parts = [torch.stack([tensor.select(axis, place) for place in places]) for tensor, axis in held]

        def arrived() -> None:
            for (tensor, axis), part in zip(held, parts, strict=True):
                for place, came in zip(places, part, strict=True):
                    tensor.select(axis, place).copy_(came)

        self._spread("keys, values", parts, owner, arrived)

    def _share_latents(self, frames: range, owner: int, flight: Any) -> None:
        room = flight.get(frames)
        self._spread("latents", [room], owner, partial(flight.put, frames, room))

    def _spread(self, kind: str, parts: Sequence[Tensor], owner: int, arrived: Callable[[], None]) -> None:
        link = self._link
        if owner == link.rank:
            others = [rank for rank in range(link.size) if rank != owner]
            link.exchange(kind, [(part, rank) for rank in others for part in parts], [], lambda: None)
        else:
            link.exchange(kind, [], [(part, owner) for part in parts], arrived)
