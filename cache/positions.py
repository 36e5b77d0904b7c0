"""Where queries and keys stand in time for the rotary embedding; integers without a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cache.types import Row, SlotRange, Slots


@dataclass(frozen=True, slots=True)
class Absolute:
    """Every frame stands at its own number in the film, so the distance to a sink grows without bound.

    Self-Forcing (Huang et al. 2025, arXiv 2506.08009) and LongLive (Yang et al. 2025, arXiv 2509.22622).
    """

    def place(self, row: Row, ranges: Sequence[SlotRange], slots: Slots) -> tuple[list[int], list[int]]:
        frames = [slot.frame for slot in slots.entries] + list(row.frames)
        return list(row.frames), [frames[index] for r in ranges for index in range(r.start, r.stop)]


@dataclass(frozen=True, slots=True)
class SlotIndex:
    """The keys stand at 0, 1, 2 ... in the order they are seen, the queries at the end of them.

    No gap between sink and recent frames and no length limit (LongLive-infinity after Infinity-RoPE, arXiv
    2511.20649; StreamingLLM's positions within the cache, arXiv 2309.17453).
    """

    def place(self, row: Row, ranges: Sequence[SlotRange], slots: Slots) -> tuple[list[int], list[int]]:
        count = sum(len(r) for r in ranges)
        return list(range(count - len(row.frames), count)), list(range(count))
