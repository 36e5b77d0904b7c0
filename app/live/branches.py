"""Branches of a live film that were left by a rewind, a reset or a new film, and can be gone back to.

A branch is a copy of the stream's state near where it was left, and what was in force until then; the film goes on from
there as from any rewind. They last as long as the film is in memory: what is parked keeps the newest alone, and its log
has all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.live.beginning import Beginning
from app.live.messages import Branch
from app.loading.live import Copy
from app.record.session_log import ChunkControls
from pipelines.types import in_words

MOST = 8
"""Branches that are kept, the newest."""


@dataclass(frozen=True, slots=True)
class LeftBranch:
    """A branch that was left.

    Attributes:
        number: as in the session log.
        frame: the pixel frame that was on screen last.
        chunk: the chunk that showed it, with which the film goes on.
        begin: the chunk of the state in `copy`, at most `chunk`.
        past: what was in force, from which chunk on.
        beginning: the pictures that its film began with, if it did.
    """

    number: int
    frame: int
    chunk: int
    begin: int
    copy: Copy
    past: tuple[tuple[int, ChunkControls], ...]
    beginning: Beginning | None = None


class Branches:
    """Of one film; used on the engine thread, but for `told`."""

    def __init__(self) -> None:
        self._memory = 0
        self._left: tuple[LeftBranch, ...] = ()

    def limit(self, memory: int) -> None:
        """Let the copies take so many bytes from now on; the oldest branches give way."""
        self._memory = memory
        self._trim()

    def add(self, branch: LeftBranch) -> None:
        """Keep one more."""
        self._left = (*self._left, branch)
        self._trim()

    def take(self, number: int) -> LeftBranch | None:
        """The branch of that number, which is left no more; None: it gave way, or never was."""
        found = next((branch for branch in self._left if branch.number == number), None)
        self._left = tuple(branch for branch in self._left if branch is not found)
        return found

    def told(self, fps: float) -> list[Branch]:
        """What people see of them, the newest first; on any thread."""
        return [
            Branch(branch=each.number, prompt=in_words(each.past[-1][1].prompt), t=round(each.frame / fps, 3))
            for each in reversed(self._left)
        ]

    def forget(self) -> None:
        """Let go of all."""
        self._left = ()

    def _trim(self) -> None:
        held, kept = 0, list[LeftBranch]()
        for branch in reversed(self._left):
            held += branch.copy.size
            if held > self._memory or len(kept) == MOST:
                break
            kept.append(branch)
        self._left = tuple(reversed(kept))
