"""What a render writes down while it works, so that it can be killed at any moment and go on.

Beside the film that grows (out.part.mp4) lies a folder (out.part) with a journal, one line an event, and the last two
snapshots of the stream, each taken where a segment of the film begins. Resuming throws away the segment that was being
written, because a half-written one cannot be continued bit for bit, and makes it again.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TextIO

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from app.errors import UsageMistake
from app.sidecar import ChunkRecord, Config, ModelRecord
from app.whole_file import write_text

Format = Literal[2]
FORMAT: Format = 2
KEPT = 2
"""Snapshots that stay: should the last one be damaged, the one before it still is there."""


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Header(_Line):
    """What is being rendered, and with what: a film goes on only with the same."""

    format: Format
    seed: int
    config: Config
    model: ModelRecord
    versions: dict[str, str]
    machine: dict[str, str | int]


class Segment(_Line):
    """Where a segment begins: its first chunk, frames and bytes of the film before it, and the stream's snapshot.

    The first segment begins with a new stream and has no snapshot.
    """

    chunk: int
    frames: int
    bytes: int
    snapshot: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Past:
    """What a journal tells of a render that did not finish.

    `expected` are all chunks that were ever made, those among them that a resume has to make again: a film goes on
    only as long as they come out as before, however often it is killed meanwhile.
    """

    header: Header
    segments: tuple[Segment, ...]
    chunks: tuple[ChunkRecord, ...]
    expected: tuple[ChunkRecord, ...]


class Journal:
    """The folder of a film that is being made; locked while it is open.

    Raises:
        UsageMistake: another process has it open.
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "journal.jsonl"
        self._file: TextIO | None = None
        self._lock = FileLock(folder / "lock")

    def __enter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UsageMistake(
                f"Another rivulet is rendering this film ({self.folder} is locked). Wait, or give another output."
            ) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            with suppress(OSError):  # a full disk; the line is then half there, and reading leaves it out
                self._file.close()
        self._lock.release()
        if not self.path.exists():
            self._remove()

    def begin(self, header: Header) -> None:
        """Start a film from its first frame."""
        for snapshot in self.snapshots():
            snapshot.unlink()
        self._file = self.path.open("w", encoding="utf-8")
        self._write("begun", header)

    def read(self) -> Past | None:
        """What was done before, None if there is no journal with anything in it.

        Raises:
            UsageMistake: another version of Rivulet wrote it, or something else changed it.
        """
        if not self.path.is_file():
            return None
        lines = self.path.read_bytes().split(b"\n")
        # A kill may cut the last line; what is not followed by a line break does not count.
        events = [_event(self.path, number, line) for number, line in enumerate(lines[:-1], 1)]
        if not events:
            return None
        (kind, first), *rest = events
        if kind != "begun" or not isinstance(first, Header):
            raise UsageMistake(f"{self.path}, line 1: this is no journal of a film. Add --overwrite to start over.")
        chunks = tuple(event for kind, event in rest if kind == "chunk" and isinstance(event, ChunkRecord))
        before = [event for kind, event in rest if kind == "expected" and isinstance(event, ChunkRecord)]
        expected = {event.index: event for event in (*before, *chunks)}
        return Past(
            first,
            tuple(event for _, event in rest if isinstance(event, Segment)),
            chunks,
            tuple(expected.values()),
        )

    def go_on(self, past: Past, segment: Segment) -> None:
        """Forget everything from a segment's beginning on, in one rename, and write behind it."""
        kept: list[tuple[str, BaseModel]] = [("begun", past.header)]
        kept += [("segment", earlier) for earlier in past.segments if earlier.chunk <= segment.chunk]
        kept += [("chunk", chunk) for chunk in past.chunks if chunk.index < segment.chunk]
        kept += [("expected", chunk) for chunk in past.expected if chunk.index >= segment.chunk]
        write_text(self.path, "".join(_line(kind, record) for kind, record in kept))
        self._file = self.path.open("a", encoding="utf-8")

    def chunk(self, record: ChunkRecord) -> None:
        """Note a chunk whose frames are in the film."""
        self._write("chunk", record)

    def segment(self, segment: Segment) -> None:
        """Note where a segment begins, safe from a power cut, and drop the snapshots that are no longer needed."""
        self._write("segment", segment)
        assert self._file is not None
        os.fsync(self._file.fileno())
        for snapshot in self.snapshots()[:-KEPT]:
            snapshot.unlink()

    def snapshots(self) -> list[Path]:
        """The snapshots that are there, the newest last."""
        return sorted(self.folder.glob("*.safetensors"))

    def snapshot_path(self, chunk: int) -> Path:
        """Where the snapshot before a chunk goes."""
        return self.folder / f"{chunk:08d}.safetensors"

    def chunks(self) -> list[ChunkRecord]:
        """Every chunk of the film so far, read back: an hour of them is not kept in memory."""
        assert self._file is not None
        self._file.flush()
        past = self.read()
        return [] if past is None else list(past.chunks)

    def remove(self) -> None:
        """The film is whole: nothing of this is needed any more."""
        if self._file is not None:
            self._file.close()
            self._file = None
        for file in (*self.snapshots(), self.path):
            file.unlink(missing_ok=True)

    def _write(self, kind: str, record: BaseModel) -> None:
        assert self._file is not None
        self._file.write(_line(kind, record))
        self._file.flush()

    def _remove(self) -> None:
        for file in self.folder.glob(".*.tmp"):
            file.unlink()
        (self.folder / "lock").unlink(missing_ok=True)
        with suppress(OSError):  # somebody put a file of their own there
            self.folder.rmdir()


def _line(kind: str, record: BaseModel) -> str:
    return json.dumps({kind: record.model_dump(mode="json")}, separators=(",", ":")) + "\n"


_KINDS: dict[str, type[BaseModel]] = {
    "begun": Header,
    "segment": Segment,
    "chunk": ChunkRecord,
    "expected": ChunkRecord,
}


def _event(path: Path, number: int, line: bytes) -> tuple[str, BaseModel]:
    try:
        ((kind, data),) = json.loads(line).items()
        return kind, _KINDS[kind].model_validate(data)
    except (ValueError, KeyError, AttributeError, ValidationError):
        raise UsageMistake(
            f"{path}, line {number}: another version of Rivulet wrote this, or it is damaged. "
            "Add --overwrite to start the film over."
        ) from None
