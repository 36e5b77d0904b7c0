"""Fleet of engines elsewhere: begun, lost, replaced, drained, and which of them the streams of a live engine are at."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from threading import Condition, Thread

from app.cluster.host import ModelFacts
from app.cluster.remote import EngineLost, Far

PATIENCE = 60.0
"""Seconds that a film waits for an engine when none is left."""
_TRIES, _AGAIN_SECONDS = 10, 5.0
_log = logging.getLogger(__name__)

Begin = Callable[[], tuple[Far, ModelFacts]]
"""Starts an engine and loads its model; raises what that refuses."""


class EngineHome:
    """Where the streams of one live engine are.

    Args:
        fleet: it is of.
        far: the engine that it begins with.
    """

    def __init__(self, fleet: Fleet, far: Far) -> None:
        self._fleet, self.far = fleet, far

    def current(self) -> Far:
        """The engine to ask; waits while there is none."""
        return self._fleet.current(self)

    def lost(self, far: Far, why: EngineLost) -> None:
        """It did not answer."""
        self._fleet.lost(far, why)

    def entered(self, far: Far) -> None:
        """A stream is at it now."""
        self._fleet.entered(far)

    def left(self, far: Far) -> None:
        """A stream is not any more."""
        self._fleet.left(far)


class Fleet:
    """Of one server.

    Args:
        begin: starts an engine.
        patience: seconds that a film waits when none is left.

    Attributes:
        losses: engines that were lost so far.
    """

    def __init__(self, begin: Begin, patience: float = PATIENCE) -> None:
        self._begin, self._patience = begin, patience
        self._changed = Condition()
        self._facts: ModelFacts | None = None
        self._homes: list[EngineHome] = []
        self._gone: list[Far] = []
        self._draining: list[Far] = []
        self._streams: Counter[int] = Counter()
        self._closed = False
        self.losses = 0

    @property
    def engines(self) -> list[Far]:
        """Those that are there."""
        with self._changed:
            return self._alive()

    def open(self) -> tuple[EngineHome, ModelFacts]:
        """A home with an engine of its own; raises what starting it refuses."""
        far, facts = self._started()
        home = EngineHome(self, far)
        with self._changed:
            self._homes.append(home)
        return home, facts

    def give_up(self, home: EngineHome) -> None:
        """A home that nobody needs any more, and its engine unless others are there too."""
        with self._changed:
            if home in self._homes:
                self._homes.remove(home)
            alone = all(other.far is not home.far for other in self._homes) and home.far not in self._gone
            if alone:
                self._gone.append(home.far)
        if alone:
            home.far.end()

    def current(self, home: EngineHome) -> Far:
        """The engine of a home."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or home.far not in self._gone, self._patience):
                raise RuntimeError("No engine of the cluster is left. Start a node, or restart the server.")
            if self._closed and home.far in self._gone:
                raise RuntimeError("The server ends.")
            return home.far

    def lost(self, far: Far, why: EngineLost) -> None:
        """An engine is gone: its films go on at once at the one with the fewest, until it is replaced."""
        with self._changed:
            if far in self._gone or self._closed:
                return
            self.losses += 1
            self._gone.append(far)
            homes = self._move(far)
        _log.warning("the engine at %s is gone: %s", far.where, why)
        far.end()
        self._replace(homes)

    def drain(self, far: Far) -> None:
        """Have an engine's films go on elsewhere, each before its next chunk, and end it when all have left."""
        with self._changed:
            if far in self._gone or far in self._draining:
                return
            self._draining.append(far)
            homes = self._move(far)
        self._replace(homes)

    def entered(self, far: Far) -> None:
        """A stream is at an engine."""
        with self._changed:
            self._streams[id(far)] += 1

    def left(self, far: Far) -> None:
        """A stream has left an engine: one that is drained ends with the last."""
        with self._changed:
            self._streams[id(far)] -= 1
        self._end_drained()

    def _end_drained(self) -> None:
        with self._changed:
            homes = {id(home.far) for home in self._homes}
            ending = [far for far in self._draining if self._streams[id(far)] <= 0 and id(far) not in homes]
            self._draining = [far for far in self._draining if far not in ending]
            self._gone += ending
        for far in ending:
            far.end()

    def close(self) -> None:
        """End all."""
        with self._changed:
            self._closed = True
            ending = self._alive() + self._draining
            self._gone += ending
            self._changed.notify_all()
        for far in ending:
            far.end()

    def _alive(self) -> list[Far]:
        found: list[Far] = []
        for home in self._homes:
            if home.far not in found and home.far not in self._gone:
                found.append(home.far)
        return found

    def _move(self, far: Far) -> list[EngineHome]:
        """Send the homes of an engine to others, if there are; with the lock held. Returns them."""
        homes = [home for home in self._homes if home.far is far]
        for home in homes:
            crowd = Counter(id(other.far) for other in self._homes)
            others = [other for other in self._alive() if other is not far and other not in self._draining]
            if others:
                home.far = min(others, key=lambda other: crowd[id(other)])
        self._changed.notify_all()
        return homes

    def _replace(self, homes: list[EngineHome]) -> None:
        """Start an engine for homes that have lost theirs; on a thread of its own, for that takes seconds."""
        if homes:
            Thread(target=self._start_for, args=(homes,), name="rivulet-fleet", daemon=True).start()

    def _start_for(self, homes: list[EngineHome]) -> None:
        for _ in range(_TRIES):
            try:
                far, _ = self._started()
                break
            except Exception as error:  # the films stay where they are meanwhile
                if not self._closed:
                    _log.error("no engine could be started in place of one that is gone: %s", error)
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, _AGAIN_SECONDS):
                    return
        else:
            return
        with self._changed:
            wanted = [home for home in homes if home in self._homes and not self._closed]
            for home in wanted:
                home.far = far
            self._changed.notify_all()
        if not wanted:
            far.end()
        self._end_drained()

    def _started(self) -> tuple[Far, ModelFacts]:
        far, facts = self._begin()
        with self._changed:
            first = self._facts = self._facts or facts
        if (first.checksum, first.threads, first.device) != (facts.checksum, facts.threads, facts.device):
            far.end()
            raise ValueError(
                f"The engine at {far.where} has other weights, threads or another device than the first one, so films "
                "could not move there. Install the same on all nodes."
            )
        return far, facts
