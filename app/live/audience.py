"""Audience of a live film: who watches it, since when nobody does, and what they missed meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from threading import RLock
from typing import TYPE_CHECKING

from app.live.messages import Overtaken, Problem

if TYPE_CHECKING:
    from pydantic import BaseModel

    from app.live.player import Player, Receipt, Viewer

CREDIT_SECONDS = 1.0
"""A viewer that had credit this lately is watching: on a slow link it has none at most moments."""
MISSED = 8
"""Problems that are kept for whoever comes back."""


class Audience:
    """Of one session.

    Args:
        player: has the viewers.
        clock: seconds that only go forward.
        missed: what the film has to tell from before.
    """

    def __init__(self, player: Player, clock: Callable[[], float], missed: Iterable[Problem] = ()) -> None:
        self._player, self._clock = player, clock
        self._lock = RLock()
        self._missed: deque[Problem] = deque(missed, maxlen=MISSED)
        self._left_at = self._credit_at = self._seen_at = clock()

    def enter(self, viewer: Viewer) -> None:
        """Somebody watches, and is told what the last ones missed."""
        with self._lock:
            self._player.viewers = (*self._player.viewers, viewer)
            missed = [*self._missed] if viewer.driver else []
            if missed:
                self._missed.clear()
        for problem in missed:
            viewer.tell(problem)

    def leave(self, viewer: Viewer) -> None:
        """And does no more."""
        with self._lock:
            self._player.viewers = tuple(other for other in self._player.viewers if other is not viewer)
            self._left_at = self._clock()

    def expect(self) -> None:
        """Somebody is about to watch."""
        self._left_at = self._clock()

    @property
    def missed(self) -> list[Problem]:
        """What nobody has been told yet."""
        with self._lock:
            return list(self._missed)

    def tell(self, event: BaseModel) -> None:
        """Tell every viewer; a problem that nobody is there to hear is kept for the next driver."""
        with self._lock:
            viewers = self._player.viewers
            if not viewers and isinstance(event, Problem):
                self._missed.append(event)
        for viewer in viewers:
            viewer.tell(event)

    def tell_overtaken(self, receipts: Iterable[Receipt], by: str) -> None:
        """Tell those whose commands count that these prompts will not be seen; `by` took their place, or nothing."""
        drivers = [viewer for viewer in self._player.viewers if viewer.driver]
        for receipt in receipts:
            for viewer in drivers:
                viewer.tell(Overtaken(id=receipt.id, by=by))

    def watches(self, now: float) -> bool:
        """Whether somebody takes frames."""
        if self._some_credit():
            self._credit_at = now
        elif not self._player.viewers:
            self._credit_at = now - CREDIT_SECONDS
        return now - self._credit_at < CREDIT_SECONDS

    def unseen(self, now: float) -> float:
        """For how many seconds nobody has taken a frame, whoever is connected."""
        if self._some_credit():
            self._seen_at = now
        return now - self._seen_at

    def absent(self, now: float) -> float:
        """For how many seconds nobody has been connected; 0 while somebody is."""
        return 0.0 if self._player.viewers else now - self._left_at

    def _some_credit(self) -> bool:
        return any(viewer.credit > 0 for viewer in self._player.viewers)
