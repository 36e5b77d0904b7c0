"""What a new prompt does to the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from cache.types import Action, Evict, Replay, SinkMemory, Slots


@dataclass(frozen=True, slots=True)
class Keep:
    """Nothing: only the text changes, and the memory goes on saying what the old prompt said."""

    @property
    def replays(self) -> int:
        return 0

    def plan(self, slots: Slots, old: int, new: int) -> list[Action]:
        return []


@dataclass(frozen=True, slots=True)
class Recache:
    """Run the remembered clean frames again under the new prompt, in one pass that sees itself whole.

    With `keep_sink` a full memory keeps the old sink, and only the `window - sink` frames behind it are replayed
    (replaying all of them and dropping the first gives the same memory). Without it, or while the window still
    reaches back to the first frame, everything is replayed and the first frames of the window become the sink
    (LongLive's KV re-cache, Yang et al. 2025, arXiv 2509.22622).
    """

    window: int = 12
    sink: int = 3
    keep_sink: bool = True

    @classmethod
    def of(cls, memory: SinkMemory, *, keep_sink: bool = True) -> Self:
        """For all that a memory holds of the film's frames."""
        return cls(memory.window, memory.sink, keep_sink)

    @property
    def replays(self) -> int:
        return self.window

    def plan(self, slots: Slots, old: int, new: int) -> list[Action]:
        if not slots.entries:
            return []
        first = min(slot.frame for slot in slots.entries)
        if self.keep_sink:  # what is replayed is written over, so anything else that the memory holds stays too
            full = slots.cur - first > self.window
            return [Replay(range(slots.cur - (self.window - self.sink) if full else first, slots.cur))]
        held = min(self.window, slots.cur - first)
        return [Evict(range(len(slots.entries))), Replay(range(slots.cur - held, slots.cur))]
