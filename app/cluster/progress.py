"""Progress of a batch on a cluster: what its films' journals say is done, and when the rest will be."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from rich.console import Console

from app.errors import UsageMistake
from app.record.journal import Journal
from app.record.request import RenderRequest
from app.render.progress import span

EVERY = 10.0
"""Seconds from one line to the next."""


class BatchProgress:
    """Says every so often how far a batch is; nothing is asked of who makes the films.

    Their journals lie in the folder that all nodes share, with a line a chunk. When all will be there is told from what
    was added since the batch began, as if all films were of one length.

    Args:
        console: where the lines go.
        requests: a film each.
        clock: seconds.
    """

    def __init__(
        self, console: Console, requests: Sequence[RenderRequest], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._requests, self._clock = console, requests, clock
        self._shares = [0.0] * len(requests)
        self._shares = [self._share(number) for number in range(len(requests))]
        self._before = sum(self._shares)  # films, whole and in part, that were there already
        self._told = self._begun = clock()

    def look(self, under_way: Collection[int], failed: int = 0) -> None:
        """Say how far it is, if it is time.

        Args:
            under_way: numbers of the films that are still to be made.
            failed: how many of the others could not be made.
        """
        now = self._clock()
        if now - self._told < EVERY:
            return
        self._told = now
        self._shares = [self._share(number) if number in under_way else 1.0 for number in range(len(self._requests))]
        done = sum(self._shares)
        gained = done - self._before
        left = (len(self._requests) - done) * (now - self._begun) / gained if gained > 0 else None
        parts = [self._shares[number] for number in sorted(under_way) if self._shares[number]]
        said = f"{len(self._requests) - len(under_way) - failed} of {len(self._requests)} films are made"
        said += f", {failed} could not be made" if failed else ""
        said += f", {len(parts)} under way ({', '.join(f'{part:.0%}' for part in parts)})" if parts else ""
        said += "." if left is None else f"; about {span(left)} left."
        self._console.print(said, soft_wrap=True)

    def _share(self, number: int) -> float:
        """How much of a film is there, 0 to 1; as before where its journal cannot be read in this moment."""
        try:
            history = Journal(self._requests[number].folder).read()
        except (OSError, UsageMistake):  # it is just being written anew
            return self._shares[number]
        if history is None:
            return self._shares[number]
        return min(1.0, sum(chunk.shown for chunk in history.chunks) / max(1, history.header.config.frames))
