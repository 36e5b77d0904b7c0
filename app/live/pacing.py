"""Pacing of a live film: a chunk is begun as late as is safe, so that no new prompt waits behind a finished one."""

from collections import deque

SLACK = 0.05
"""Seconds that are always left between a chunk and the moment it is needed."""
CALM = 30.0
"""Seconds without an underrun after which the margin shrinks again."""
_REMEMBERED, _RECENT, _FEWEST = 40, 8, 4
_SLOW, _FAST_AGAIN = 0.95, 1.05


class Pace:
    """The time a chunk is expected to take, and a margin that learns from the times when that was too little.

    Args:
        length: seconds of film that a chunk is.

    Attributes:
        last: seconds that the newest chunk took.
        switching: those of them that were for a new prompt.
    """

    def __init__(self, length: float) -> None:
        self.length = length
        self.margin = SLACK
        self.last = self.switching = 0.0
        self.underruns = 0
        self.slow = False
        self._most = max(SLACK, length / 2)
        self._plain: deque[float] = deque(maxlen=_REMEMBERED)
        self._switching: deque[float] = deque(maxlen=_REMEMBERED)
        self._apart: deque[float] = deque(maxlen=_RECENT)  # seconds that each of the last chunks held the film up for
        self._calm_since = self._finished = 0.0

    def took(self, seconds: float, switching: float, late: float, now: float) -> None:
        """A chunk took `seconds`, `switching` of them for a new prompt, and came `late` seconds after it was needed."""
        self.last, self.switching = seconds, switching
        self._plain.append(seconds - switching)
        if switching:
            self._switching.append(switching)
        # One that was late was begun as soon as there was time, after this film's last chunk or other films' chunks.
        self._apart.append(max(seconds, now - self._finished) if late else seconds)
        self._finished = now
        if late:
            self.underruns += 1
            self.margin = min(self._most, self.margin + max(SLACK, late / 2))
            self._calm_since = now
        elif now - self._calm_since >= CALM:
            self.margin = max(SLACK, self.margin - SLACK)
            self._calm_since = now
        rate = self.rate
        if rate is not None and len(self._apart) >= _FEWEST:
            self.slow = rate < (_FAST_AGAIN if self.slow else _SLOW)

    def lead(self, *, switching: bool) -> float:
        """How many seconds before it is needed a chunk is begun; `switching` if a new prompt begins with it."""
        return self.cost(switching=switching) + self.margin

    def cost(self, *, switching: bool) -> float:
        """How many seconds a chunk takes at most, nearly always."""
        return p95(self._plain) + (p95(self._switching) if switching else 0.0)

    @property
    def chunk_seconds(self) -> float | None:
        """Median time of the last chunks."""
        return median(self._plain)

    @property
    def rate(self) -> float | None:
        """How many times real time the film can be made; below 1 it has pauses."""
        apart = median(self._apart)
        return self.length / apart if apart else None

    @property
    def share(self) -> float:
        """The share of a chunk's length that making it takes."""
        return (self.chunk_seconds or self.length) / self.length


def p95(values: deque[float]) -> float:
    """The value that 95 % stay at or below; 0 of none."""
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))] if values else 0.0


def median(values: deque[float]) -> float | None:
    """The upper one of the two in the middle; None of none."""
    return sorted(values)[len(values) // 2] if values else None
