"""Where queries and keys stand in time for the rotary embedding; integers without a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from cache.anchors import JunctionAnchors
from cache.types import NATIVE, Row, SlotRange, Slots


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


@dataclass(frozen=True, slots=True)
class Glued:
    """Every frame stands at its own number but the sink, which stands directly before the earliest other one seen.

    However long the film, the distance to the sink is that of its beginning (Rolling Forcing, Liu et al. 2025, arXiv
    2509.25161, whose rotary tables end after 1024 frames; ours do not).
    """

    def place(self, row: Row, ranges: Sequence[SlotRange], slots: Slots) -> tuple[list[int], list[int]]:
        entries, count = slots.entries, len(slots.entries)
        frames = [slot.frame for slot in entries] + list(row.frames)
        seen = [index for r in ranges for index in range(r.start, r.stop)]
        sink = [index for index in seen if index < count and entries[index].tag == "sink"]
        first = min(frames[index] for index in seen if index not in sink and frames[index] != NATIVE)
        glued = {index: first - len(sink) + order for order, index in enumerate(sink)}
        return list(row.frames), [glued.get(index, frames[index]) for index in seen]


@dataclass(frozen=True, slots=True)
class MovedSink:
    """Every frame stands at its own number, moved by what the cache policy set for it; single tokens at their own.

    Deep Forcing (Yi et al. 2025, arXiv 2512.05081), which turns the sink's stored keys in place and so rounds them
    again with every move.
    """

    def place(self, row: Row, ranges: Sequence[SlotRange], slots: Slots) -> tuple[list[int], list[int]]:
        kept = [NATIVE if slot.tag == "kept" else slot.frame + slot.base for slot in slots.entries]
        positions = [*kept, *row.frames]
        return list(row.frames), [positions[index] for r in ranges for index in range(r.start, r.stop)]


@dataclass(frozen=True, slots=True)
class Regions:
    """Three regions within `horizon` frames: the sink first, then an anchor, and the film at the end.

    The sink stands at 0, 1, 2 ... and the pass at its distance from the film's beginning, until that would reach past
    the horizon; from then on it stays at the end. Recent frames come directly before it, an anchor directly before the
    room of a whole `window`. No length limit, and no distance that a model trained on `horizon` frames has not met
    (Anchor Forcing, Yang et al. 2026, arXiv 2603.13405). After a cut the film begins anew.
    """

    horizon: int = 21
    window: int = 12
    anchor: int = 3

    @classmethod
    def of(cls, memory: JunctionAnchors, *, horizon: int) -> Self:
        """For this memory."""
        return cls(horizon, memory.window, memory.anchor)

    def __post_init__(self) -> None:
        if self.window + self.anchor > self.horizon:
            raise ValueError(
                f"{self.horizon} positions cannot hold a window of {self.window} latent frames and an anchor of "
                f"{self.anchor}: make the window {self.horizon - self.anchor} or smaller"
            )

    def place(self, row: Row, ranges: Sequence[SlotRange], slots: Slots) -> tuple[list[int], list[int]]:
        entries, count = slots.entries, len(row.frames)
        begun = min([row.frames.start, *(slot.frame for slot in entries)])
        first = min(self.horizon - count, row.frames.start - begun)
        queries = list(range(first, first + count))
        tags = [entries[i].tag for r in ranges for i in range(r.start, r.stop) if i < len(entries)]
        sink, anchors = tags.count("sink"), tags.count("anchor")
        local = len(tags) - sink - anchors
        regions = {
            "sink": iter(range(sink)),
            "anchor": iter(range(self.horizon - self.window - self.anchor, self.horizon)),
        }
        recent = iter(range(first - local, first))
        own = queries[count - (sum(len(r) for r in ranges) - len(tags)) :]
        return queries, [*(next(regions.get(tag, recent)) for tag in tags), *own]


@dataclass(frozen=True, slots=True)
class ShotOffset:
    """Every frame stands at its number in the film and `offset` later for each new prompt up to it.

    The step in time tells the model that a new shot began (LongLive 2, arXiv 2605.18739). A film remembers
    its last 32 prompt changes; those before them no longer count.
    """

    offset: int = 8

    def place(self, row: Row, ranges: Sequence[SlotRange], slots: Slots) -> tuple[list[int], list[int]]:
        frames = [*(slot.frame for slot in slots.entries), *row.frames]
        at = [frame + self.offset * sum(switch <= frame for switch in slots.switches) for frame in frames]
        return at[len(slots.entries) :], [at[index] for r in ranges for index in range(r.start, r.stop)]
