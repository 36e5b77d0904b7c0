"""The slot table of one lane: which frames stand where in memory, and what every action does to that, in integers.

The store of keys carries the changes out on tensors (cache/kv.py), the cost of a preset is counted from a table alone
(pipelines/cost.py), and contract tests hold policies to it: what an action means is written here and nowhere
else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from cache.types import (
    NATIVE,
    Action,
    Average,
    Blend,
    Drop,
    Evict,
    Move,
    Pin,
    Prune,
    Rebase,
    Replay,
    Slot,
    Tag,
    Write,
)


@dataclass(frozen=True, slots=True)
class Put:
    """The staged frame number `source`, which is `frame` of the film, goes to `place`."""

    frame: int
    source: int
    place: int


@dataclass(frozen=True, slots=True)
class Fold:
    """The mean at `into` moves by `share` towards the frame at `place`; `begins`: it is that frame so far."""

    place: int
    into: int
    share: float
    begins: bool = False


@dataclass(frozen=True, slots=True)
class Choose:
    """In the coming pass the best tokens of the frames at `candidates` are chosen, and fill the places `kept`."""

    candidates: tuple[int, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reorder:
    """Slots stand elsewhere, or are gone; nothing moved in the allocation."""


Change = Put | Fold | Choose | Reorder
"""What an action asks of whatever lies at the places of the allocation."""


class SlotTable:
    """Slots in attention order, each with its place in an allocation, so that forgetting a frame moves no tensor.

    Args:
        capacity: places of the allocation.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.entries: tuple[Slot, ...] = ()
        self.places: list[int] = []
        self.free = list(range(self.capacity))

    def apply(self, action: Action, staged: Sequence[Slot] = ()) -> list[Change]:
        """Carry out what a policy asked.

        Args:
            action: in slot numbers of `entries`.
            staged: the frames of the last pass, of which Write keeps some.

        Returns:
            What has to happen at the places, in this order.

        Raises:
            ValueError: slots that are not there, more frames than there is room for, or nothing that is done to slots.
        """
        match action:
            case Write(frames, slots, tag):
                return self._write(frames, slots, tag, staged)
            case Evict(slots):
                self._check(action, slots)
                self.free += [self.places[i] for i in slots]
                self._stand([i for i in range(len(self.entries)) if i not in slots])
                return [Reorder()]
            case Move(slot, to):
                self._check(action, range(slot, slot + 1), range(to, to + 1))
                order = [i for i in range(len(self.entries)) if i != slot]
                self._stand([*order[:to], slot, *order[to:]])
                return [Reorder()]
            case Pin(slots, tag):
                self._check(action, slots)
                self._mark({i: replace(self.entries[i], tag=tag) for i in slots})
            case Rebase(slots, base):
                self._check(action, slots)
                self._mark({i: replace(self.entries[i], base=base) for i in slots})
            case Average(slots, into, share):
                self._check(action, slots)
                return self._average(slots, into, share)
            case Prune(slots, keep):
                self._check(action, slots)
                return self._prune(slots, keep)
            case Replay() | Blend() | Drop():
                raise ValueError(f"a store of keys cannot carry out {action!r}: the engine loop has to")
            case _:
                assert_never(action)
        return []

    def foresee(self, actions: Sequence[Action], staged: Sequence[Slot], seen: Sequence[int]) -> list[Put] | None:
        """Where what a pass leaves will go, or None if that has to wait until the pass is over.

        It has to where another frame lies that the pass sees, or that an action still reads.

        Args:
            actions: what the policy asks for when the pass is over.
            staged: the frames of the pass.
            seen: places of the frames that it sees.
        """
        later, busy, puts = SlotTable(self.capacity), {*seen}, list[Put]()
        later.entries, later.places, later.free = self.entries, [*self.places], [*self.free]
        for action in actions:
            for change in later.apply(action, staged):
                match change:
                    case Put(place=place) if place not in busy:
                        puts.append(change)
                    case Fold(place=place, into=into):
                        busy |= {place, into}
                    case Reorder():
                        pass
                    case Put() | Choose():
                        return None
        return puts

    def _write(self, frames: range, slots: range, tag: Tag, staged: Sequence[Slot]) -> list[Change]:
        at = {slot.frame: index for index, slot in enumerate(staged)}
        if missing := [frame for frame in frames if frame not in at]:
            raise ValueError(f"frame {missing[0]} cannot be remembered: the last pass held {[*at]}")
        self._check_room(slots)
        changes: list[Change] = []
        for frame, slot in zip(frames, slots, strict=True):
            if slot == len(self.entries):
                self._append(Slot(frame))
            source = at[frame]
            self._mark({slot: replace(staged[source], tag=tag)})
            changes.append(Put(frame, source, self.places[slot]))
        return changes

    def _average(self, slots: range, into: int, share: float) -> list[Change]:
        changes: list[Change] = []
        if not slots:
            raise ValueError("a mean of no slots averages nothing: name some")
        self._check_room(range(into, into + 1))
        if into == len(self.entries):
            first, slots = slots.start, slots[1:]
            self._append(replace(self.entries[first], tag="mean"))
            changes.append(Fold(self.places[first], self.places[into], 1.0, begins=True))
        for slot in slots:
            changes.append(Fold(self.places[slot], self.places[into], share))
            self._mark({into: replace(self.entries[into], frame=self.entries[slot].frame)})
        return changes

    def _prune(self, slots: range, keep: int) -> list[Change]:
        if keep >= len(slots):
            raise ValueError(f"prune keeps {keep} of {len(slots)} slots: keep fewer than there are")
        places = tuple(self.places[i] for i in slots)
        kept, gone = slots[:keep], slots[keep:]
        self.free += places[keep:]
        self._mark({i: replace(self.entries[i], frame=NATIVE, tag="kept", base=0) for i in kept})
        self._stand([i for i in range(len(self.entries)) if i not in gone])
        return [Choose(places, places[:keep]), Reorder()]

    def _check(self, action: Action, *slots: range) -> None:
        held = len(self.entries)
        if any(part and not 0 <= part.start < part.stop <= held for part in slots):
            raise ValueError(f"{action!r} names slots that are not there: {held} are taken")

    def _check_room(self, slots: range) -> None:
        """Slots to be written: those that are there, and beyond them in order."""
        held = len(self.entries)
        if not 0 <= slots.start <= held:
            raise ValueError(f"slot {slots.start} is beyond the end ({held}): slots are written in order")
        if slots.stop - held > len(self.free):
            raise ValueError(
                f"the memory holds its {self.capacity} latent frames already: the cache policy must "
                "evict before it writes"
            )

    def _append(self, entry: Slot) -> None:
        self.places.append(self.free.pop(0))
        self.entries = (*self.entries, entry)

    def _mark(self, changed: Mapping[int, Slot]) -> None:
        """Other entries in some of the slots; their places stay."""
        self.entries = tuple(changed.get(i, entry) for i, entry in enumerate(self.entries))

    def _stand(self, order: Sequence[int]) -> None:
        """Let these slots stand in this order, and no others."""
        self.places = [self.places[i] for i in order]
        self.entries = tuple(self.entries[i] for i in order)
