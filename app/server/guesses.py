"""Wrong passwords, counted by who sent them, so that nobody can try thousands."""

import time
from collections.abc import Callable

ALLOWED, SECONDS = 10, 60.0
"""Wrong passwords that an address may send in so many seconds; then it waits until the first of them is that old."""
ADDRESSES = 4096
"""Addresses kept at a time; the ones that were quiet longest are forgotten first."""


class Guesses:
    """Counts wrong passwords by address.

    Behind a proxy that is not trusted (app/server/addresses.py) all have the proxy's address, so a guesser locks out
    the others too; who is in has a cookie already.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: dict[str, list[float]] = {}

    def wait(self, address: str) -> float:
        """Seconds until this address may try again; 0 when it may."""
        recent = [at for at in self._wrong.get(address, ()) if at > self._clock() - SECONDS]
        return 0.0 if len(recent) < ALLOWED else recent[-ALLOWED] + SECONDS - self._clock()

    def wrong(self, address: str) -> None:
        """Note a wrong password."""
        times = [*self._wrong.pop(address, [])[1 - ALLOWED :], self._clock()]
        self._wrong[address] = times
        if len(self._wrong) > ADDRESSES:
            del self._wrong[next(iter(self._wrong))]
