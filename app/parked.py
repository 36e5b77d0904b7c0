"""A live film on disk: what is needed to take it up again, by the same process or another.

The stream's state lies beside it (app/live_film.py); without a whole pair of the two there is no way back in.
"""

import json
import re
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from app.take import Steered
from app.whole_file import write_text
from app.wire import QueueItem

FORMAT: Literal[1] = 1
STATE = "state.safetensors"
_FILE = "parked.json"
_ID = re.compile(r"[0-9a-f]{16}")


class CourseRecord(BaseModel):
    """Plans: the prompts so far, those that wait, and since which frame the last is held for how many seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    past: list[Steered]
    queue: list[QueueItem]
    hold: float | None
    held_from: int


class Parked(BaseModel):
    """Where a film stopped; `at` is unix time, `snapshot` the sha256 of the stream's state."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = FORMAT
    at: float
    checksum: str
    preset: str
    snapshot: str
    paused: bool
    chunk: int
    branch: int
    epoch: int
    seq: int
    frame: int
    course: CourseRecord


def is_session_id(text: str) -> bool:
    """Whether this can be the name of a session, and so of a folder."""
    return _ID.fullmatch(text) is not None


def write_parked(folder: Path, parked: Parked) -> None:
    """Write it whole or not at all."""
    write_text(folder / _FILE, parked.model_dump_json() + "\n")


def read_parked(folder: Path, keep_seconds: float) -> Parked | None:
    """What is parked there, None if nothing is, or was for too long, or another version wrote it."""
    try:
        parked = Parked.model_validate(json.loads((folder / _FILE).read_bytes()))
    except (OSError, ValueError, ValidationError):
        return None
    return parked if time.time() - parked.at <= keep_seconds else None


def forget_parked(folder: Path) -> None:
    """The film is taken up, or not kept any longer; its log and what was saved stay."""
    (folder / _FILE).unlink(missing_ok=True)
    (folder / STATE).unlink(missing_ok=True)


def sweep(root: Path, keep_seconds: float) -> None:
    """Forget what has been parked for longer than that."""
    for state in root.glob(f"*/{STATE}"):
        if time.time() - state.stat().st_mtime > keep_seconds:
            forget_parked(state.parent)
