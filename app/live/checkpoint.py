"""A live film on disk: what is needed to take it up again, by the same process or another.

The stream's state lies beside it, under a name that is new every time: a kill at any moment leaves the pair before or
the pair after, and without a whole pair there is no way back in.
"""

import re
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.atomic import write_text
from app.live.messages import Problem, QueueItem
from app.record.session_log import Steered

FORMAT: Literal[1] = 1
_FILE = "parked.json"
_STATES = "state-*.safetensors"
_UNSEEN = 2**16
_ID = re.compile(r"[0-9a-f]{16}")


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
