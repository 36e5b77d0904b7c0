"""Where the film turned: the first frames after a new prompt are remembered twice, and the copy outlives the window.

A film of many prompts forgets how a scene began as soon as its beginning leaves the window. Anchor Forcing (Yang et
al. 2026, arXiv 2603.13405) keeps the keys of that junction beside the sink.
"""

from __future__ import annotations

from dataclasses import dataclass

from cache.room import require_leaving, require_room
from cache.types import Action, CachePolicy, Evict, Move, Row, Slots, Write


def junction(frame: int, switches: tuple[int, ...]) -> int:
    """The last change of the prompt at or before `frame`; -1 if there was none."""
    return max((switch for switch in switches if switch <= frame), default=-1)


@dataclass(frozen=True, slots=True)
class JunctionAnchors(CachePolicy):
    """A sink, copies of the first `anchor` frames after each of the last two changes of the prompt, the last frames.

    The copies, tagged `anchor`, are made of the clean keys when these are first written; a later replay of the frames
    leaves them as they are. They stand between sink and recent frames, the older ones first, and take no room of the
    `window`. The earlier junction's are kept because they are what there is to show while the new junction is still
    inside the window (cache/windows.py). A frame of the sink is never copied: it stays anyway.
    """

    window: int = 12
    sink: int = 3
    anchor: int = 3

    def __post_init__(self) -> None:
        require_room(self.window, self.sink)
        if self.anchor < 0:
            raise ValueError(f"an anchor has 0 latent frames or more, got {self.anchor}: 3 is usual")

    @property
    def capacity(self) -> int:
        return self.window + 2 * self.anchor

    @property
    def protected(self) -> int:
        return self.sink + 2 * self.anchor

    def begin(self, row: Row, slots: Slots) -> list[Action]:
        film = [(index, slot.frame) for index, slot in enumerate(slots.entries) if slot.tag != "anchor"]
        known = {frame for _, frame in film}
        excess = len(film) + sum(frame not in known for frame in row.frames) - self.window
        if excess <= 0:
            return []
        free = [index for index, _ in film[self.sink :]]
        require_leaving(row, excess, len(free), self.window)
        return [Evict(range(free[0], free[0] + excess))]

    def end(self, row: Row, slots: Slots) -> list[Action]:
        entries, actions = list(slots.entries), list[Action]()
        new = self._new_anchors(row, slots)
        stale = self._stale_anchors(slots) if new else range(0)
        if stale:
            actions.append(Evict(stale))
            del entries[stale.start : stale.stop]
        where = {slot.frame: index for index, slot in enumerate(entries) if slot.tag != "anchor"}
        anchors = len(entries) - len(where)
        for frame in row.commit:
            index = where.setdefault(frame, len(where) + anchors)
            tag = "sink" if index < self.sink else "recent"
            actions.append(Write(range(frame, frame + 1), range(index, index + 1), tag))
        for frame in new:
            behind = len(where) + anchors
            actions.append(Write(range(frame, frame + 1), range(behind, behind + 1), "anchor"))
            actions.append(Move(behind, self.sink + anchors))
            anchors += 1
        return actions

    def _new_anchors(self, row: Row, slots: Slots) -> list[int]:
        """Frames of the last junction that come into memory with this row."""
        if not slots.switches:
            return []
        turn = range(slots.switches[-1], slots.switches[-1] + self.anchor)
        known = [slot.frame for slot in slots.entries if slot.tag != "anchor"]
        sink = [*known, *(frame for frame in row.commit if frame not in known)][: self.sink]
        return [frame for frame in row.commit if frame in turn and frame not in (*known, *sink)]

    def _stale_anchors(self, slots: Slots) -> range:
        """Slots of all anchors but those of the last junction and of the one before it."""
        anchors = [slot.frame for slot in slots.entries if slot.tag == "anchor"]
        earlier = [junction(frame, slots.switches) for frame in anchors]
        kept = {slots.switches[-1], max((each for each in earlier if each != slots.switches[-1]), default=-1)}
        return range(self.sink, self.sink + sum(each not in kept for each in earlier))
