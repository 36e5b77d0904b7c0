"""Pauses of the event loop: for how long sockets and requests waited because something else kept it busy.

A timer is asked for every twentieth of a second; how late it comes is the pause. What waits during a long pause waits
for less and less of it, so one is counted as all the waits that it was.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

EVERY = 0.05
KEPT_SECONDS = 60.0


class LoopPauses:
    """Of the event loop on which it is watched.

    Args:
        observe: told every pause, in seconds.
        clock: seconds that only go forward.
    """

    def __init__(self, observe: Callable[[float], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._observe, self._clock = observe, clock
        self._pauses: deque[tuple[float, float]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    def watch(self) -> None:
        """Begin, on the running loop; nothing happens the second time."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._ask(loop)

    def came(self, due: float) -> None:
        """A timer came that was due then."""
        now = self._clock()
        pause = max(0.0, now - due)
        self._observe(pause)
        self._pauses.append((now, pause))
        while self._pauses[0][0] < now - KEPT_SECONDS:
            self._pauses.popleft()

    def figures(self) -> dict[str, float]:
        """Of the last minute, in seconds: what 99 of 100 waits stay below, and the longest."""
        waits = sorted(wait for _, pause in self._pauses for wait in _waits(pause))
        p99 = waits[min(len(waits) - 1, int(0.99 * len(waits)))] if waits else 0.0
        return {"loop_pause_p99_seconds": p99, "loop_pause_max_seconds": max(waits, default=0.0)}

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        due = self._clock() + EVERY

        def come() -> None:
            self.came(due)
            self._ask(loop)

        loop.call_later(EVERY, come)


def _waits(pause: float) -> list[float]:
    """What those waited who came during a pause, one each `EVERY` seconds; the first waited for all of it."""
    return [pause - EVERY * place for place in range(max(1, int(pause / EVERY) + 1))]
