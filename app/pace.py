"""When the next chunk is begun: as late as is safe, so that a new prompt never waits behind a finished chunk."""

from collections import deque

SLACK = 0.05
"""Seconds that are always left between a chunk and the moment it is needed."""
CALM = 30.0
"""Seconds without an underrun after which the margin shrinks again."""
_REMEMBERED = 40


class Pace:
    """The time a chunk is expected to take, and a margin that learns from the times when that was too little.

    Args:
        most: seconds that the margin may grow to.
    """

    def __init__(self, most: float) -> None:
        self.margin = SLACK
        self.underruns = 0
        self._most = max(SLACK, most)
        self._plain: deque[float] = deque(maxlen=_REMEMBERED)
        self._switching: deque[float] = deque(maxlen=_REMEMBERED)
        self._calm_since = 0.0

    def took(self, seconds: float, switching: float, now: float) -> None:
        """A chunk took `seconds`, `switching` of them for a new prompt."""
        self._plain.append(seconds - switching)
        if switching:
            self._switching.append(switching)
        if now - self._calm_since >= CALM:
            self.margin = max(SLACK, self.margin - SLACK)
            self._calm_since = now

    def underrun(self, late: float, now: float) -> None:
        """A chunk came `late` seconds after it was needed."""
        self.underruns += 1
        self.margin = min(self._most, self.margin + max(SLACK, late / 2))
        self._calm_since = now

    def lead(self, *, switching: bool) -> float:
        """How many seconds before it is needed a chunk is begun; `switching` if a new prompt begins with it."""
        return p95(self._plain) + (p95(self._switching) if switching else 0.0) + self.margin

    @property
    def chunk_seconds(self) -> float | None:
        """Median time of the last chunks."""
        return sorted(self._plain)[len(self._plain) // 2] if self._plain else None


def p95(values: deque[float]) -> float:
    """The value that 95 % stay at or below; 0 of none."""
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))] if values else 0.0
