"""Deep Forcing's memory: half of it a sink that keeps up with the film, the rest pruned by what attention asks for.

A model distilled on five seconds looks at early and middle frames alike, so a few sink frames are not enough; and a
sink left at the film's beginning falls out of the distances the model was trained on (Yi et al. 2025, arXiv
2512.05081). Nothing is trained for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cache.fifo import SinkWindow, write_in_order
from cache.room import require_room
from cache.scorers.logit_sum import LogitSum
from cache.types import Action, CachePolicy, Evict, Prune, Rebase, Row, Slots, TokenScorer


@dataclass(frozen=True, slots=True)
class DeepSink(SinkWindow):
    """`SinkWindow` whose sink moves on in time with every chunk: its distance to the newest frame stays what it was.

    It begins to move at the second chunk that makes frames leave, so the gap that the first of them left stays.
    """

    window: int = 21
    sink: int = 10

    def begin(self, row: Row, slots: Slots) -> list[Action]:
        actions = SinkWindow.begin(self, row, slots)
        entries, sink = slots.entries, self.sink
        if not actions or not sink or entries[sink].frame == entries[sink - 1].frame + 1:
            return actions
        gone = sum(len(action.slots) for action in actions if isinstance(action, Evict) and action.slots.start >= sink)
        return [*actions, Rebase(range(sink), entries[0].base + gone)]


@dataclass(frozen=True, slots=True)
class DeepForcing(CachePolicy):
    """Deep sink with participative compression: a memory that would exceed `window` frames shrinks to `budget` frames.

    What stays is the first `sink` frames, the last `recent` ones (those of the pass itself count), and between them as
    many single tokens as fill the budget, chosen anew in every layer by the last `recent` frames' queries, each token
    at most `max_reuse` times. The sink is then moved to begin `budget` frames before the pass, and stays there until
    the next compression; kept tokens stay where they were in time.

    A budget larger than the window, or too small for sink and recent frames, counts as the nearest one that is neither.
    """

    window: int = 21
    sink: int = 10
    budget: int = 16
    recent: int = 4
    max_reuse: int = 7

    def __post_init__(self) -> None:
        # The recent frames are the chunk's and those before it.
        require_room(self.window, self.sink, chunk=0, recent=self.recent)

    @property
    def capacity(self) -> int:
        return self.window

    @property
    def protected(self) -> int:
        return self.sink

    @property
    def scorer(self) -> TokenScorer:
        return LogitSum(self.recent, self.max_reuse)

    def begin(self, row: Row, slots: Slots) -> list[Action]:
        entries, sink = slots.entries, self.sink
        known = {slot.frame for slot in entries}
        incoming = sum(frame not in known for frame in row.frames)
        if entries and incoming and row.frames.start < slots.cur:
            # A replay brings back frames that were compressed, so it takes the place of all behind the sink.
            return [Evict(range(sink, len(entries))), *self._begin_sink_at(row.frames.start - sink, slots)]
        if len(entries) + incoming <= self.window:
            return []
        if incoming > self.recent:
            raise ValueError(
                f"a pass of {incoming} latent frames judges the memory by more frames than the last {self.recent}: "
                f"make recent at least {incoming}, or chunks shorter"
            )
        candidates = range(sink, len(entries) - (self.recent - incoming))
        budget = max(min(self.budget, self.window), sink + self.recent)
        keep = budget - sink - self.recent
        shrink = Prune(candidates, keep) if keep else Evict(candidates)
        return [shrink, *self._begin_sink_at(slots.cur - budget, slots)]

    def _begin_sink_at(self, position: int, slots: Slots) -> list[Action]:
        return [Rebase(range(self.sink), position - slots.entries[0].frame)] if self.sink else []

    def end(self, row: Row, slots: Slots) -> list[Action]:
        return write_in_order(row, slots, self.sink)
