"""Commands of a live film: its end, new beginnings, rewinds and stops that wait for the engine, at most one of each.

They cost the engine more than a chunk does, and a driver may ask faster than they can be made, so what a later one
makes pointless is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from app.live.beginning import Beginning
from app.live.messages import Do, SessionStart, Stop

Command = Do | SessionStart | Stop | Beginning
_POINTLESS: dict[str, tuple[str, ...]] = {
    "reset": ("reset", "rewind", "return", "stop"),
    "rewind": ("rewind", "return"),
    "return": ("rewind", "return"),
    "stop": ("stop",),
}
"""What each action leaves out of what waits."""


class Commands:
    """Of one session.

    Args:
        asked: called after every one, on the thread that asks.
    """

    def __init__(self, asked: Callable[[], object] = lambda: None) -> None:
        self._asked = asked
        self._lock = Lock()
        self._waiting: list[Command] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(self, command: Command) -> None:
        """One more, in the place of those that it makes pointless; on any thread."""
        with self._lock:
            if isinstance(command, Stop | SessionStart | Beginning):
                kept: list[Command] = []
            else:
                gone = _POINTLESS[command.action]
                dropped = [other for other in self._waiting if isinstance(other, Do) and other.action in gone]
                kept = [other for other in self._waiting if other not in dropped]
                seeds = [other.seed for other in dropped if other.action == "reset" and other.seed is not None]
                if command.action == "reset" and command.seed is None and seeds:
                    command = command.model_copy(update={"seed": seeds[-1]})
            self._waiting = [*kept, command]
        self._asked()

    def take(self) -> list[Command]:
        """All that wait, in order; none does any more."""
        with self._lock:
            taken, self._waiting = self._waiting, []
        return taken
