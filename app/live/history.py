"""History of a live film: copies of its stream's past, as dense as the memory allows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from app.loading.live import Copy


@dataclass(frozen=True, slots=True)
class Mark:
    """The state before a chunk."""

    chunk: int
    copy: Copy


class History:
    """Copies of a stream's past, as dense as the memory allows: the way back over the last `reach` chunks.

    A chunk between two copies is reached by going forward from the one before: the film is a function of its seed and
    its controls, so it comes out the same.

    Args:
        memory: bytes that the copies may take.
        reach: how many chunks back there shall be copies.
    """

    def __init__(self, memory: int, reach: int) -> None:
        self._memory, self._reach = memory, max(1, reach)
        self._every = 1  # chunks between two copies; 0: not even one fits
        self._marks: deque[Mark] = deque()

    def limit(self, memory: int) -> None:
        """Let the copies take so many bytes from now on."""
        self._memory, self._every = memory, self._every or 1  # the next copy tells whether it fits
        if self._marks:
            fit = memory // max(1, self._marks[-1].copy.size)
            while len(self._marks) > fit:
                self._marks.popleft()

    def due(self, chunk: int) -> bool:
        """Whether the state before this chunk should be copied."""
        return self._every > 0 and (not self._marks or chunk - self._marks[-1].chunk >= self._every)

    def add(self, chunk: int, copy: Copy) -> None:
        """Keep a copy of the state before a chunk, and let go of what is out of reach."""
        fit = self._memory // max(1, copy.size)
        if fit < 2:
            self._every = 0
            return
        self._every = -(-self._reach // fit)
        self._marks.append(Mark(chunk, copy))
        while len(self._marks) > fit or self._marks[0].chunk < chunk - self._reach - self._every:
            self._marks.popleft()

    def before(self, chunk: int) -> Mark | None:
        """The newest copy from which a chunk can be reached, else the oldest there is."""
        return next((mark for mark in reversed(self._marks) if mark.chunk <= chunk), self._first())

    def at(self, chunk: int) -> Copy | None:
        """The copy of the state before this chunk, if there is one."""
        return self._marks[-1].copy if self._marks and self._marks[-1].chunk == chunk else None

    def forget(self, after: int = -1) -> None:
        """Drop the copies of states behind a chunk's beginning: they belong to another branch."""
        while self._marks and self._marks[-1].chunk > after:
            self._marks.pop()

    def _first(self) -> Mark | None:
        return self._marks[0] if self._marks else None
