"""Scheduling of live films on the engine: which film is next, and what one that jumps owes the others.

A rewind, a new beginning or a cut is to be seen at once, and costs up to five chunks where playing costs one; a new
prompt has the memory computed anew. A driver who jumps or talks all the time would so have most of the engine. What is
more than playing is therefore paid back: for a while the film is served only in the time that films without debt do not
need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from app.live.pacing import Pace

FACTOR = 3.0
"""Seconds of debt for every second that a jump or a new prompt takes."""
LONGEST_DEBT = 5.0
"""Seconds after its last turn for which a film may be in debt."""
PATIENCE = 10.0
"""Seconds without a turn after which a film that is due goes first."""


class Debt:
    """Of one film, which begins at `now`.

    Attributes:
        until: when it is paid, in the engine's clock.
        served: when the film had its last turn.
    """

    def __init__(self, now: float) -> None:
        self.until, self.served = float("-inf"), now

    def had(self, begun: float, now: float, *, jumped: bool, switching: float = 0.0) -> None:
        """The film had a turn, which began at `begun` and ends now; `jumped`: for what is to be seen at once.

        `switching` seconds of it were for a new prompt.
        """
        self.served = now
        if owed := now - begun if jumped else switching:
            self.until = min(now + LONGEST_DEBT, max(self.until, now) + FACTOR * owed)


class Film(Protocol):
    """A session, as far as turns go."""

    debt: Debt
    pace: Pace

    def due(self, now: float) -> float | None:
        """When its next turn has to begin; None: it needs none."""
        ...

    def spare(self, now: float) -> float:
        """For how many seconds the engine may do something else."""
        ...


Some = TypeVar("Some", bound=Film)


def next_film(films: Sequence[Some], now: float) -> tuple[float, Some] | None:
    """Which film is next, and when; None: no film needs a turn.

    The one that is due first; of several, the one that owes least. A film in debt waits while a turn of it would make
    one without debt late, which is for `LONGEST_DEBT` seconds at most, and no film that is due waits longer than
    `PATIENCE` while others have turns. Where only films in debt play, nobody waits for anybody.
    """
    spare = min((film.spare(now) for film in films if film.debt.until <= now), default=float("inf"))
    turns: list[tuple[float, Some]] = []
    for film in films:
        if (when := film.due(now)) is None:
            continue
        if when <= now and now - film.debt.served >= PATIENCE:
            when = film.debt.served
        elif film.debt.until > now and spare < film.pace.cost(switching=True):
            when = max(when, film.debt.until)
        turns.append((when, film))
    return min(turns, key=lambda turn: (turn[0], turn[1].debt.until), default=None)
