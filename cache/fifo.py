"""First in, first out, behind a sink that stays: the memory of Self-Forcing and LongLive.

Dropping the very first frames makes a causal video model drift, as dropping the first tokens breaks a streaming
language model: softmax must put its spare attention somewhere (Xiao et al. 2023, arXiv 2309.17453; LongLive, Yang
et al. 2025, arXiv 2509.22622).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cache.room import require_leaving, require_room
from cache.types import Action, CachePolicy, Deps, Evict, Row, Slots, Write


@dataclass(frozen=True, slots=True)
class SinkWindow(CachePolicy):
    """Keep the first `sink` frames for ever and, with the pass's own, at most `window` frames in all.

    The oldest frames behind the sink leave when the first pass of a new chunk needs their room; later passes of the
    chunk find it made. `sink` 0 is Self-Forcing's plain sliding window (Huang et al. 2025, arXiv 2506.08009).

    `keeps` says what is written, and when: `clean` frames by a pass of their own, the `last` noise level's keys, or
    one memory for each `level` (StreamDiffusionV2, Feng et al. 2025, arXiv 2511.07399).

    `counts` says which frames of a pass take room: all that are in the `pass`, or those it will `commit`: of a joint
    window of many chunks only the oldest stays behind (Rolling Forcing, Liu et al. 2025, arXiv 2509.25161).
    """

    window: int = 12
    sink: int = 3
    keeps: Deps = "clean"
    counts: Literal["pass", "commit"] = "pass"

    def __post_init__(self) -> None:
        require_room(self.window, self.sink)

    @property
    def capacity(self) -> int:
        return self.window

    @property
    def protected(self) -> int:
        return self.sink

    @property
    def deps(self) -> Deps:
        return self.keeps

    def begin(self, row: Row, slots: Slots) -> list[Action]:
        known = {slot.frame for slot in slots.entries}
        counted = row.frames if self.counts == "pass" else row.commit
        incoming = sum(frame not in known for frame in counted)
        excess = len(slots.entries) + incoming - self.capacity
        if excess <= 0:
            return []
        require_leaving(row, excess, max(0, len(slots.entries) - self.sink), self.capacity)
        return [Evict(range(self.sink, self.sink + excess))]

    def end(self, row: Row, slots: Slots) -> list[Action]:
        return write_in_order(row, slots, self.sink)


def write_in_order(row: Row, slots: Slots, sink: int) -> list[Action]:
    """Frames already remembered are overwritten in place (a replay), new ones are appended."""
    actions: list[Action] = []
    where = {slot.frame: index for index, slot in enumerate(slots.entries)}
    after = len(slots.entries)
    for frame in row.commit:
        index = where.get(frame, after)
        after += index == after
        tag = "sink" if index < sink else "recent"
        actions.append(Write(range(frame, frame + 1), range(index, index + 1), tag))
    return actions
