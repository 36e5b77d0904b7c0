"""Memory of a cascade: clean keys of finished chunks, and of those still on their way the keys of their last pass.

What a pass sees is what it would see of `SinkWindow` if the chunks before it were finished.
"""

from __future__ import annotations

from dataclasses import dataclass

from cache.fifo import SinkWindow
from cache.types import Deps, Row, Slots
from cache.windows import AllRemembered


@dataclass(frozen=True, slots=True)
class InFlight(SinkWindow):
    """`window` and `sink` as of `SinkWindow`, and room for the chunks behind the oldest of `depth` in flight.

    A pass overwrites what the chunk's pass before it left. `chunk` is how many latent frames each has.
    """

    keeps: Deps = "hybrid"
    chunk: int = 3
    depth: int = 2

    @property
    def ahead(self) -> int:
        """Latent frames behind the oldest chunk in flight."""
        return (self.depth - 1) * self.chunk

    @property
    def capacity(self) -> int:
        return self.window + self.ahead

    @property
    def protected(self) -> int:
        return self.sink + self.ahead


@dataclass(frozen=True, slots=True)
class Preceding(AllRemembered):
    """Of such a memory the sink and the latest frames before the pass's own, as many as make `window` with these."""

    window: int = 12
    sink: int = 3

    def seen(self, row: Row, slots: Slots) -> list[int]:
        entries = slots.entries
        before = [i for i in range(len(entries)) if entries[i].frame < row.frames.start]
        before.sort(key=lambda index: entries[index].frame)
        sink = [index for index in before if entries[index].tag == "sink"]
        recent = [index for index in before if entries[index].tag != "sink"]
        room = max(0, self.window - len(row.frames) - len(sink))
        return sink + recent[max(0, len(recent) - room) :]
