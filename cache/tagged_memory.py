"""Memories that treat frames by kind: markers stay longer than ordinary frames, old frames live on in running means.

A window of the last frames forgets what the prompt changed, and when. Both policies spend a few slots on that, in a
memory no larger than a plain window's: one on what must not leave, the other on what becomes of a frame that does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import groupby

from cache.room import require_leaving, require_room
from cache.types import Action, Average, CachePolicy, Evict, Move, Row, Slots, Write


@dataclass(frozen=True, slots=True)
class MarkedWindow(CachePolicy):
    """A sink, a short window of ordinary frames, and between them markers: frames that came first after a new prompt.

    The first `mark` frames after each change of the prompt are markers, tagged `pin`; the last `markers` of them
    outlive the ordinary frames around them, and leave when newer markers take their places. Room that they do not take
    is the ordinary frames'. Slots stand in film order. After StreamingVLM's sinks, short window of pictures and long
    window of text (arXiv 2510.09608): what a film's prompts leave behind in memory are frames.
    """

    window: int = 12
    sink: int = 3
    markers: int = 3
    mark: int = 1

    def __post_init__(self) -> None:
        require_room(self.window, self.sink, markers=self.markers)
        if self.mark < 0:
            raise ValueError(f"a new prompt marks 0 latent frames or more, got {self.mark}: 1 is usual")

    @property
    def capacity(self) -> int:
        return self.window

    @property
    def protected(self) -> int:
        return self.sink + self.markers

    def begin(self, row: Row, slots: Slots) -> list[Action]:
        pins = [index for index, slot in enumerate(slots.entries) if slot.tag == "pin"]
        stays = {*range(self.sink), *pins[max(0, len(pins) - self.markers) :]}
        excess = len(slots.entries) + _incoming(row, slots) - self.window
        return _forget(_leaving(row, slots, excess, stays, self.window))

    def end(self, row: Row, slots: Slots) -> list[Action]:
        marked = {frame for switch in slots.switches for frame in range(switch, switch + self.mark)}
        return _remember(row, slots, self.window - len(slots.entries), self.sink, marked)


@dataclass(frozen=True, slots=True)
class AveragedMemory(CachePolicy):
    """A sink, one running mean of all frames that left for each of `shares`, and the last frames.

    A frame that leaves is folded into every mean: mean += share * (frame - mean); the first one begins them. A small
    share makes a long memory, a large one a short. Slots: sink, means in the order of `shares`, recent frames; room for
    the means is kept from the start. The defaults are MemRoPE's 3 sink, 2 means, 4 recent and 3 new frames, and as
    there the means are of un-rotated keys and stand at the positions of their slots.
    """

    window: int = 12
    sink: int = 3
    shares: tuple[float, ...] = (0.01, 0.1)

    def __post_init__(self) -> None:
        require_room(self.window, self.sink, means=len(self.shares))
        if not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"a frame's share of a mean is more than 0 and at most 1, got {self.shares}")

    @property
    def capacity(self) -> int:
        return self.window

    @property
    def protected(self) -> int:
        return self.sink + len(self.shares)

    def _room(self, slots: Slots) -> int:
        """Slots that are free and not kept for means to come."""
        means = sum(slot.tag == "mean" for slot in slots.entries)
        return self.window - len(slots.entries) - (len(self.shares) - means)

    def begin(self, row: Row, slots: Slots) -> list[Action]:
        means = [index for index, slot in enumerate(slots.entries) if slot.tag == "mean"]
        excess = _incoming(row, slots) - self._room(slots)
        leaving = _leaving(row, slots, excess, {*range(self.sink), *means}, self.window)
        end, actions = len(slots.entries), list[Action]()
        for number, share in enumerate(self.shares if leaving else ()):
            into = means[number] if means else end + number
            actions += [Average(run, into, share) for run in _runs(leaving)]
        actions += _forget(leaving)
        if leaving and not means:  # they began behind everything else
            actions += [Move(end - len(leaving) + k, self.sink + k) for k in range(len(self.shares))]
        return actions

    def end(self, row: Row, slots: Slots) -> list[Action]:
        return _remember(row, slots, self._room(slots), self.sink, ())


def _newest(slots: Slots) -> int:
    return max((slot.frame for slot in slots.entries), default=-1)


def _incoming(row: Row, slots: Slots) -> int:
    """How many of the row's frames are new; a frame that has left does not come back."""
    return sum(frame > _newest(slots) for frame in row.frames)


def _leaving(row: Row, slots: Slots, excess: int, stays: Collection[int], window: int) -> list[int]:
    """The oldest `excess` slots that need not stay and are not of the pass itself."""
    free = [i for i, slot in enumerate(slots.entries) if i not in stays and slot.frame not in row.frames]
    if slots.entries:
        require_leaving(row, excess, len(free), window)
    return free[: max(0, excess)]


def _forget(leaving: Iterable[int]) -> list[Action]:
    """From the back, so that numbers stay true."""
    return [Evict(run) for run in reversed(_runs(leaving))]


def _remember(row: Row, slots: Slots, room: int, sink: int, marked: Collection[int]) -> list[Action]:
    """Frames already there are overwritten in place, newer ones appended while there is room.

    Of more new frames than there is room for (a replay into a memory that was emptied), those of the sink and the last
    ones stay.
    """
    count, newest = len(slots.entries), _newest(slots)
    where = {slot.frame: index for index, slot in enumerate(slots.entries) if slot.tag != "mean"}
    actions: list[Action] = [
        Write(range(frame, frame + 1), range(where[frame], where[frame] + 1), slots.entries[where[frame]].tag)
        for frame in row.commit
        if frame in where
    ]
    new = [frame for frame in row.commit if frame > newest]
    surplus = max(0, len(new) - room)
    first = min(max(0, sink - count), len(new) - surplus)
    for index, frame in enumerate(new[:first] + new[first + surplus :], start=count):
        tag = "sink" if index < sink else "pin" if frame in marked else "recent"
        actions.append(Write(range(frame, frame + 1), range(index, index + 1), tag))
    return actions


def _runs(indices: Iterable[int]) -> list[range]:
    """Rising numbers as runs without a gap."""
    runs: list[range] = []
    for _, group in groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in group]
        runs.append(range(numbers[0], numbers[-1] + 1))
    return runs
