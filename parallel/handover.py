"""Handover of latents from level to level, where the levels of a pass lie on several ranks.

Every rank knows the integers of every row, so both ends of a message know that it comes, and how large it is: nothing
but latents is sent. The row that finishes a chunk runs first, so that its picture is decoded while others still run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from cache.types import Pass, Row
from parallel.link import Link


class _Latents(Protocol):
    def get(self, frames: range) -> Tensor: ...

    def put(self, frames: range, latents: Tensor) -> None: ...


class LevelHandover:
    """One rank's end of it.

    Args:
        link: to the others.
        lanes: which lanes each rank has.
        lane_of: the lane in which frames that stand at a level go on.
    """

    def __init__(self, link: Link, lanes: Sequence[range], lane_of: Callable[[float], int]) -> None:
        self._link, self._lanes, self._lane_of = link, lanes, lane_of

    def ours(self, row: Row) -> bool:
        return row.lane in self._lanes[self._link.rank]

    def holder(self, level: float) -> int:
        """The rank that has the frames which stand at a level; finished ones are where pictures are made."""
        return 0 if not level else self._owner(self._lane_of(level))

    def frame_holder(self, frame: int, level: float, scene: int) -> int:
        """The rank that has a frame in flight."""
        return self.holder(level)

    def run(self, work: Pass, run: Callable[[Sequence[Row]], None], state: Any) -> None:
        link = self._link
        rows = sorted(work.rows, key=lambda row: row.lane, reverse=True)  # the oldest chunk first
        denoise = work.kind == "denoise"
        ending = [row for row in rows if denoise and not row.to[-1]]
        others = [row for row in rows if row not in ending]
        for row in ending:  # its picture waits for it
            if self.ours(row):
                run([row])
            self._move([(row, self._owner(row.lane), 0)], state)
        if ours := [row for row in others if self.ours(row)]:
            run(ours[::-1])
        if denoise:
            self._move([(row, self._owner(row.lane), self.holder(row.to[-1] or 0.0)) for row in others], state)
        link.finish()

    def _move(self, moves: Sequence[tuple[Row, int, int]], state: Any) -> None:
        """Begin to send and receive; what comes is put where it goes as soon as it is there."""
        rank, flight = self._link.rank, state.flight
        sends, receives = list[tuple[Tensor, int]](), list[tuple[Tensor, int]]()
        places = list[tuple[Row, Tensor]]()
        for row, source, to in moves:
            if source == to:
                continue
            if rank == source:
                sends.append((flight.get(row.frames), to))
            elif rank == to:
                room = flight.get(row.frames)
                receives.append((room, source))
                places.append((row, room))

        def arrived() -> None:
            for row, room in places:
                flight.put(row.frames, room)
                if row.emit:
                    state.latents.put(row.emit, room[:, row.emit.start - row.frames.start :])

        self._link.exchange("latents", sends, receives, arrived)

    def _owner(self, lane: int) -> int:
        return next(rank for rank, lanes in enumerate(self._lanes) if lane in lanes)
