"""Checkpoint of a live film on the disk: from it another process, or this one, goes on.

The stream's state lies beside it, under a name that is new every time: a kill at any moment leaves the pair before or
the pair after, and without a whole pair there is no way back in. While the film plays the engine thread gives a copy
of the state between two chunks, which costs it milliseconds; the disk's own thread writes it, never two of a film at a
time, and less often where it takes long. A copy that cannot be written leaves the one before it where it is, and the
film's viewers know; it is tried again until it works.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.atomic import write_text
from app.live.messages import Problem, QueueItem
from app.live.saves import why_unsaved
from app.live.worker import Worker
from app.loading.live import Copy
from app.record.log_writer import LogWriter
from app.record.session_log import Steered

FORMAT: Literal[1] = 1
_FILE = "parked.json"
_STATES = "state-*.safetensors"
_UNSEEN = 2**16
_ID = re.compile(r"[0-9a-f]{16}")
EVERY = 5.0
"""Seconds between two copies of a film that only goes on."""
SOON = 1.0
"""Seconds between two copies of a film whose plans change."""
_BESIDE = 64 * 1024
"""Bytes of what is written beside the state."""
_SHARE = 20
"""A copy that takes long is waited for: at least so many times as long."""

_log = logging.getLogger(__name__)


class NotKept(Exception):
    """A film cannot be taken up again; the text, for people, says why."""


class ScheduleRecord(BaseModel):
    """Plans: the prompts so far, those that wait, and since which frame the last is held for how many seconds.

    `next` is a prompt that begins with the next chunk.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    past: list[Steered]
    queue: list[QueueItem]
    hold: float | None
    held_from: int
    next: QueueItem | None = None


class Checkpoint(BaseModel):
    """Where a film stopped; `at` is unix time, `snapshot` the sha256 of the stream's state, which lies in `state`.

    `running`: the film went on from here, and what came of it is lost if nothing newer lies here. `missed` is what
    its viewers have to be told when they come back.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = FORMAT
    at: float
    checksum: str
    preset: str
    state: Annotated[str, Field(pattern=r"^state-\d+\.safetensors$")]
    snapshot: str
    running: bool
    paused: bool
    chunk: int
    branch: int
    epoch: int
    seq: int
    frame: int
    course: ScheduleRecord
    missed: list[Problem] = []

    @property
    def seq_from(self) -> int:
        """The number before the first frame to come: above all that a server that was killed can have shown."""
        return self.seq + (_UNSEEN if self.running else 0)


def is_session_id(text: str) -> bool:
    """Whether this can be the name of a session, and so of a folder."""
    return _ID.fullmatch(text) is not None


def write_checkpoint(folder: Path, save: Callable[[Path], str], describe: Callable[[str, str], Checkpoint]) -> None:
    """Write the state with `save`, which returns its sha256, and then `describe` of its name and that, both whole.

    Raises:
        OSError: it cannot be written; what lay there before still does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = [*folder.glob(_STATES), *folder.glob(".state-*")]  # the latter: a kill while it was written
    last = max((int(number) for path in before if (number := path.stem.partition("-")[2]).isdigit()), default=0)
    state = folder / f"state-{last + 1}.safetensors"
    try:
        mark_checkpoint(folder, describe(state.name, save(state)))
    except BaseException:
        state.unlink(missing_ok=True)
        raise
    for path in before:
        path.unlink(missing_ok=True)


def mark_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write where the film stands, whole or not at all, beside a state that is there already."""
    write_text(folder / _FILE, checkpoint.model_dump_json() + "\n")


def read_checkpoint(folder: Path, keep_seconds: float) -> Checkpoint:
    """What checkpoint is there.

    Raises:
        NotKept: nothing is, or was for too long, or it is damaged; the text says which.
    """
    try:
        text = (folder / _FILE).read_bytes()
    except FileNotFoundError:
        if not folder.is_dir():
            raise NotKept("This film is not on this server's disk.") from None
        raise NotKept(
            "There is no copy of this film: it was ended, left too long ago, or made room for others."
        ) from None
    except OSError as error:
        raise NotKept(f"The copy of this film cannot be read ({error.strerror or error}).") from error
    try:
        checkpoint = Checkpoint.model_validate_json(text)
    except ValidationError:
        raise NotKept("The copy of this film is damaged, or another version of Rivulet wrote it.") from None
    gone = time.time() - checkpoint.at
    if gone > keep_seconds:
        raise NotKept(f"This film was left {gone / 60:.0f} minutes ago, and films are kept for {keep_seconds / 60:g}.")
    return checkpoint


def forget_checkpoint(folder: Path) -> None:
    """The film is over, or not kept any longer; its log and what was saved stay."""
    for path in (folder / _FILE, *folder.glob(_STATES)):  # without the first the others count for nothing
        path.unlink(missing_ok=True)


def sweep(root: Path, keep_seconds: float, running: Container[str]) -> None:
    """Forget what was left for longer than that, but for those of the sessions that run."""
    for file in root.glob(f"*/{_FILE}"):
        if file.parent.name not in running and time.time() - file.stat().st_mtime > keep_seconds:
            forget_checkpoint(file.parent)


class Autosave:
    """Of one session.

    Args:
        folder: where it goes; there is room for two copies there, and never more than that.
        clock: seconds that only go forward.
        disk: writes.
        room: sees to it that so many bytes can be written, as Quota.room does.
        session_log: the film's log; a copy that is ahead of it is worth nothing, so the log is written first.
        tell: called, on the disk's thread, with why nothing is saved any more, and with None when it is again.
    """

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float],
        disk: Worker,
        room: Callable[[int], None],
        session_log: LogWriter,
        tell: Callable[[str | None], None],
    ) -> None:
        self._folder, self._clock, self._disk, self._room = folder, clock, disk, room
        self._session_log, self._tell = session_log, tell
        self._writing = False
        self._saved_at = clock()
        self._took = 0.0
        self._changed = False
        self._trouble: str | None = None

    @property
    def trouble(self) -> str | None:
        """Why nothing is saved at present; None: all is well."""
        return self._trouble

    def soon(self) -> None:
        """Something has changed that should not be lost; on any thread."""
        self._changed = True

    def due(self, now: float) -> bool:
        """Whether the film should be copied before its next chunk."""
        if self._writing:
            return False
        pause = EVERY if self._trouble is not None or not self._changed else SOON
        return now - self._saved_at >= max(pause, _SHARE * self._took)

    @property
    def urgent(self) -> bool:
        """Whether a film that makes no chunks should be copied all the same."""
        return (self._changed or self._trouble is not None) and self.due(self._clock())

    def save(self, copy: Copy, describe: Callable[[str, str], Checkpoint]) -> None:
        """Write a copy of the state, and then `describe` of the file's name and its sha256; on the engine thread."""
        self._changed, self._saved_at, self._writing = False, self._clock(), True

        def write() -> None:
            try:
                self._write(copy, describe)
            finally:
                self._writing = False

        self._disk.give(write)

    def park(self, copy: Copy, describe: Callable[[str, str], Checkpoint]) -> None:
        """Write the last copy; nothing comes after it."""
        self._disk.give(lambda: self._write(copy, describe))

    def forget(self) -> None:
        """The film is over: there is no way back in."""
        self._disk.give(lambda: forget_checkpoint(self._folder))

    def _write(self, copy: Copy, describe: Callable[[str, str], Checkpoint]) -> None:
        begun = time.monotonic()
        try:
            self._session_log.flush()
            self._room(copy.size + copy.size // 16 + _BESIDE)
            write_checkpoint(self._folder, copy.save, describe)
        except Exception as error:  # the film goes on, and the copy before this one is still there
            self._took = 0.0
            if self._trouble is None:
                about = {"session": self._folder.name}
                _log.warning("a copy of the film could not be written", exc_info=True, extra=about)
            self._say(why_unsaved(error))
        else:
            self._took = time.monotonic() - begun
            self._say(None)

    def _say(self, trouble: str | None) -> None:
        before, self._trouble = self._trouble, trouble
        if (before is None) != (trouble is None):
            self._tell(trouble)
