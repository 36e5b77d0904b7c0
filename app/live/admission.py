"""Admission to a session: somebody asks for a new one or for one that was left, and is answered."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING

from app.errors import explain
from app.live.checkpoint import Checkpoint, NotKept, is_session_id, read_checkpoint
from app.loading.live import Copy, LiveModel, read_copy
from app.record.log_writer import LogWriter
from app.record.session_log import LOG

if TYPE_CHECKING:
    from app.live.session import Session

_log = logging.getLogger(__name__)


class Busy(Exception):
    """Every session is taken; `position` is the place of whoever asks among those who wait here, 1 is next."""

    def __init__(self, position: int = 1) -> None:
        super().__init__("All films that this machine can make at once are taken. Try again in a minute.")
        self.position = position


class Closed(RuntimeError):
    """The server ends."""

    def __init__(self) -> None:
        super().__init__("The server ends. Try again when it has started anew.")


class Request:
    """Somebody on another thread waits for a session.

    Args:
        wanted: its name; None is a new one.

    Attributes:
        name: of the session.
        known: whether what there is of it on the disk has been read.
        session_log: its log; None: it has none.
        checkpoint: where it stopped, and the state there; None: it begins.
    """

    def __init__(self, wanted: str | None) -> None:
        self.name = secrets.token_hex(8) if wanted is None else wanted
        self.known = wanted is None
        self.session_log: LogWriter | None = None
        self.checkpoint: tuple[Checkpoint, Copy] | None = None
        self._lock, self._done = Lock(), Event()
        self._answer: Session | Exception = Closed()

    def answer(self, answer: Session | Exception) -> None:
        """Let whoever waits go on; the first answer counts."""
        with self._lock:
            if not self._done.is_set():
                self._answer = answer
                self._done.set()

    def wait(self) -> Session:
        """Wait for the answer; an exception is raised."""
        self._done.wait()
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def read_kept(self, folder: Path, model: LiveModel, keep_seconds: float, later: Callable[..., object]) -> None:
        """Read what was left of the film; on a thread that may wait for a disk.

        Raises:
            NotKept: it cannot be taken up.
        """
        if not is_session_id(self.name):
            raise NotKept("This film is not on this server's disk.")
        checkpoint = read_checkpoint(folder, keep_seconds)
        if (checkpoint.checksum, checkpoint.preset) != (model.checksum, model.preset):
            other = f"preset {model.preset}" if checkpoint.preset != model.preset else "another model"
            raise NotKept(f"This film was made with preset {checkpoint.preset}, and this server plays {other}.")
        try:
            self.checkpoint = checkpoint, read_copy(folder / checkpoint.state, checkpoint.snapshot)
            self.session_log = LogWriter(folder / LOG, model, later)
        except (ValueError, OSError) as error:
            raise damaged(error, self.name) from error
        self.known = True


def damaged(error: Exception, session: str) -> NotKept:
    """Why a film that is there cannot be taken up."""
    _log.warning("a film cannot go on", exc_info=error, extra={"session": session})
    return NotKept(f"The copy of this film is damaged: {explain(error)[0][:200]}")
