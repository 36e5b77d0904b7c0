"""Preview of a queued prompt: one chunk from a fork of the stream, made beside the film and kept out of it.

It takes as long as a chunk, so it is made while the film needs no time: paused, or in the pause after a chunk that was
begun early for its sake. Two chunks of film are then there for three chunks' work, hence the largest share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from pydantic import BaseModel

from app.errors import explain
from app.live.film import LiveFilm
from app.live.messages import Do, Problem, QueueItem
from app.live.pacing import Pace
from app.live.prompts import PromptSchedule
from app.live.recorder import Recorder
from app.live.takes import Takes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LARGEST_SHARE = 0.6
"""Of its time that a film may need while something is auditioned beside it."""
PATIENCE = 10.0
"""Seconds after which nothing more is expected of other films' pauses."""


@dataclass(frozen=True, slots=True)
class _Asked:
    item: QueueItem
    since: float


class Previews:
    """Of one session; at most one waits.

    Args:
        schedule: holds the queue.
        film: makes the chunk.
        pace: knows what a chunk costs.
        recorder: makes a file of it.
        tell: called with what went wrong.
    """

    def __init__(
        self,
        schedule: PromptSchedule,
        film: LiveFilm,
        pace: Pace,
        recorder: Recorder,
        tell: Callable[[BaseModel], None],
    ) -> None:
        self._schedule, self._film, self._pace, self._recorder, self._tell = schedule, film, pace, recorder, tell
        self._lock = Lock()
        self._asked: _Asked | None = None
        self._takes, self._takes_since = Takes(film, self._took), 0.0

    @property
    def wait(self) -> bool:
        """Whether one waits, or a take does."""
        return self._asked is not None or self._takes.wait

    def ask(self, message: Do, now: float, *, playing: bool) -> None:
        """Audition an item of the queue, no `id` is the first, in the place of one that waits; or begin four takes.

        On any thread.

        Raises:
            ValueError: there is no such item, or the machine has no time for it.
        """
        name = message.id
        if message.action == "takes":
            self._refuse_without_time(playing)
            self._recorder.forget_takes()
            self._takes_since = now
            self._takes.ask()
            return
        item = next((item for item in self._schedule.queue if name in (None, item.id)), None)
        if item is None:
            raise ValueError("This prompt does not wait in the queue. Queue it, then audition it.")
        self._refuse_without_time(playing)
        with self._lock:
            self._asked = _Asked(item, now)

    def make(self, spare: float, now: float, *, playing: bool) -> bool:
        """Make the one that waits if it fits into `spare` seconds; True if it took time. On the engine thread."""
        with self._lock:
            asked = self._asked
        if asked is None:
            return self._take(spare, now, playing=playing)
        with self._lock:
            wanted = asked.item in self._schedule.queue  # an item that was edited is another one
            fits = spare >= self._pace.cost(switching=True)
            if wanted and not fits and now - asked.since < PATIENCE:
                return False
            self._asked = None
        if not wanted:
            return False
        if not fits and playing:
            self._refuse("There was no time for an audition beside the films that play.", "Pause, then audition.")
            return False
        try:
            chunk = self._film.preview(asked.item.of_engine())
        except Exception as error:  # a word it cannot read, no memory for a second film: this one goes on
            self._refuse(explain(error)[0], "The film goes on.")
            return True
        assert chunk.pixels is not None
        if (refused := self._recorder.save_audition(chunk.pixels, asked.item.id)) is not None:
            self._tell(refused)
        return True

    def forget(self) -> None:
        """Let go of what was begun; the model is about to be loaded anew."""
        with self._lock:
            self._asked = None
        self._takes.forget()

    def _take(self, spare: float, now: float, *, playing: bool) -> bool:
        """A chunk of a take, if it fits."""
        if not self._takes.wait:
            return False
        if spare < self._pace.cost(switching=True):
            if now - self._takes_since < PATIENCE:
                return False
            if playing:
                self._takes.forget()
                self._refuse("There was no time for takes beside the films that play.", "Pause, then ask again.")
                return False
        self._takes_since = now
        try:
            self._takes.make()
        except Exception as error:  # no memory for a second film: this one goes on
            self._takes.forget()
            self._refuse(explain(error)[0], "The film goes on.")
        return True

    def _took(self, pixels: NDArray[np.uint8], seed: int) -> None:
        if (refused := self._recorder.save_take(pixels, seed)) is not None:
            self._tell(refused)

    def _refuse_without_time(self, playing: bool) -> None:
        if playing and self._pace.share > LARGEST_SHARE:
            share = f"{min(1.0, self._pace.share):.0%}"
            raise ValueError(f"The film takes {share} of this machine's time. Pause it, then audition.")

    def _refuse(self, message: str, action: str) -> None:
        self._tell(Problem(message=message, action=action, code="audition"))
