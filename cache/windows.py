"""Which remembered frames a pass sees; a replay never sees the stale copies of the frames it replays."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Self

from cache.anchors import JunctionAnchors, junction
from cache.types import Row, SlotRange, Slots


def _without_own(row: Row, slots: Slots) -> list[int]:
    """Slots of frames that are not in the pass itself, in slot order; a mean of many frames is none of them."""
    return [i for i, slot in enumerate(slots.entries) if slot.tag == "mean" or slot.frame not in row.frames]


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


def _sink_and_recent(row: Row, slots: Slots, window: int, sink: int) -> list[SlotRange]:
    others = _without_own(row, slots)
    first = [index for index in others if index < sink]
    recent = [index for index in others if index >= sink]
    room = min(len(recent), max(0, window - len(row.frames) - len(first)))
    return _as_ranges(first + recent[len(recent) - room :], row, slots)


@dataclass(frozen=True, slots=True)
class AllRemembered:
    """All that the memory holds and the pass itself: what the cache policy keeps is what is seen.

    With `past_weight` b below 1, log(b) is added to the logits of past frames, so that each counts b times as much
    beside the pass's own; not to the film's first frame, and not in a replay. It makes films repeat themselves less
    (Krea Realtime and Daydream Scope, `kv_cache_attention_bias`).
    """

    past_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.past_weight <= 1:
            raise ValueError(f"past frames weigh more than 0 and at most 1, got {self.past_weight}")

    def seen(self, row: Row, slots: Slots) -> list[int]:
        """Slots of what is seen beside the pass's own frames, in order."""
        return _without_own(row, slots)

    def select(self, row: Row, slots: Slots) -> list[SlotRange]:
        seen = self.seen(row, slots)
        if self.past_weight == 1 or row.source == "stored":
            return _as_ranges(seen, row, slots)
        entries, bias = slots.entries, log(self.past_weight)
        first = [i for i in seen[:1] if entries[i].frame == 0 or entries[i].tag == "sink"]  # after a cut it is not 0
        *past, own = _as_ranges(seen[len(first) :], row, slots)
        return [*(SlotRange(i, i + 1) for i in first), *(SlotRange(r.start, r.stop, bias) for r in past), own]


@dataclass(frozen=True, slots=True)
class SinkAndRecent:
    """The first `sink` frames, and of the rest as many of the latest as make `window` with the pass's own.

    Narrower than the memory: for comparing windows on one memory, and for models trained on a shorter one.
    """

    window: int = 12
    sink: int = 3

    def select(self, row: Row, slots: Slots) -> list[SlotRange]:
        return _sink_and_recent(row, slots, self.window, self.sink)


@dataclass(frozen=True, slots=True)
class RollingWindow:
    """For a window of many chunks whose oldest alone is remembered, of up to `visible` frames, own ones included.

    A pass of the whole window sees the first `sink` frames and as many of the latest as fit beside its own. The pass
    that writes the memory sees the latest `visible` frames and no more, so the sink drops out once the memory reaches
    further back than that: so were the models trained (Rolling Forcing, Liu et al. 2025, arXiv 2509.25161).
    """

    visible: int = 21
    sink: int = 3

    def select(self, row: Row, slots: Slots) -> list[SlotRange]:
        return _sink_and_recent(row, slots, self.visible, 0 if row.commit else self.sink)


@dataclass(frozen=True, slots=True)
class SinkAnchorRecent:
    """The sink, the anchor of one junction, the recent frames: of a memory with anchors (cache/anchors.py).

    The anchor is that of the latest change of the prompt which the window behind the sink has left: of the change
    before the last for a while, and none while that is in the window too, so that no frame is seen twice. The time is
    the row's own, so a replay sees what its first frame would have seen. `window` and `sink` are the memory's.
    """

    window: int = 12
    sink: int = 3

    @classmethod
    def of(cls, memory: JunctionAnchors) -> Self:
        """Of this memory."""
        return cls(memory.window, memory.sink)

    def select(self, row: Row, slots: Slots) -> list[SlotRange]:
        at = [junction(slot.frame, slots.switches) if slot.tag == "anchor" else None for slot in slots.entries]
        left = [each for each in at if each is not None and each + self.window - self.sink < row.frames.start]
        shown = max(left, default=None)
        seen = [
            index
            for index, (slot, each) in enumerate(zip(slots.entries, at, strict=True))
            if (slot.frame not in row.frames if each is None else each == shown)
        ]
        return _as_ranges(seen, row, slots)
