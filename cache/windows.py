"""Which remembered frames a pass sees; a replay never sees the stale copies of the frames it replays."""

from __future__ import annotations

from dataclasses import dataclass

from cache.types import Row, SlotRange, Slots


def _without_own(row: Row, slots: Slots) -> list[int]:
    """Slots of frames that are not in the pass itself, in slot order."""
    return [index for index, slot in enumerate(slots.entries) if slot.frame not in row.frames]


def _as_ranges(indices: list[int], row: Row, slots: Slots) -> list[SlotRange]:
    """Contiguous runs of `indices`, then the pass's own frames."""
    count = len(slots.entries)
    ranges: list[SlotRange] = []
    for index in indices:
        if ranges and ranges[-1].stop == index:
            ranges[-1] = SlotRange(ranges[-1].start, index + 1)
        else:
            ranges.append(SlotRange(index, index + 1))
    return [*ranges, SlotRange(count, count + len(row.frames))]


@dataclass(frozen=True, slots=True)
class AllRemembered:
    """All that the memory holds and the pass itself: what the cache policy keeps is what is seen."""

    def select(self, row: Row, slots: Slots) -> list[SlotRange]:
        return _as_ranges(_without_own(row, slots), row, slots)


@dataclass(frozen=True, slots=True)
class SinkAndRecent:
    """The first `sink` frames, and of the rest as many of the latest as make `window` with the pass's own.

    Narrower than the memory: for comparing windows on one memory, and for models trained on a shorter one.
    """

    window: int = 12
    sink: int = 3

    def select(self, row: Row, slots: Slots) -> list[SlotRange]:
        others = _without_own(row, slots)
        sink = [index for index in others if index < self.sink]
        room = max(0, self.window - len(row.frames) - len(sink))
        recent = [index for index in others if index >= self.sink]
        return _as_ranges(sink + recent[len(recent) - min(room, len(recent)) :], row, slots)
