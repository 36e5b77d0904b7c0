"""A sink that is renewed when the picture has left it behind: first in, first out, behind frames that may be replaced.

A sink from the film's beginning holds a video to a scene that may be gone, which in video to video is the rule
(StreamDiffusionV2, Feng et al. 2025, arXiv 2511.07399).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cache.fifo import SinkWindow
from cache.scorers.similarity import FrameSimilarity
from cache.types import Action, Evict, FrameScorer, Move, Pin, Row, Slots


@dataclass(frozen=True, slots=True)
class SinkRefresh(SinkWindow):
    """`SinkWindow`, and the sink frame least like the newest frame gives it its place when below `threshold` (-1..1).

    The newest frame is measured when it is written and judged at the next chunk, so at most one sink frame leaves a
    chunk; the window behind the sink then does not move on. All layers of a lane decide together. Only a full memory
    is judged: the released system compares empty places too, finds them unlike anything, and so loses a sink frame
    as soon as it is full.
    """

    threshold: float = 0.2

    @property
    def scorer(self) -> FrameScorer:
        return FrameSimilarity()

    def begin(self, row: Row, slots: Slots) -> list[Action]:
        least = self._left_behind(slots)
        if least is None:
            return SinkWindow.begin(self, row, slots)
        entries, place = list(slots.entries), range(least, least + 1)
        entries[least] = replace(entries.pop(), tag="sink")
        swap: list[Action] = [Evict(place), Move(self.window - 2, least), Pin(place, "sink")]
        return swap + SinkWindow.begin(self, row, replace(slots, entries=tuple(entries), scores=()))

    def _left_behind(self, slots: Slots) -> int | None:
        """The sink frame that has to go, if one has."""
        if not len(slots.scores) == len(slots.entries) == self.window:
            return None
        least = min(range(self.sink), key=slots.scores.__getitem__, default=None)
        return None if least is None or slots.scores[least] >= self.threshold else least
