"""Journal of a render, written while it works, so that it can be killed at any moment and go on.

Beside the film that grows (out.part.mp4) lies a folder (out.part) with a journal, one line an event, and the last two
snapshots of the stream, each taken where a segment of the film begins. Resuming makes the segment again that was being
written, because a half-written one cannot be continued bit for bit.

Every line ends with a hash over itself and the hash of the line before, so that of a damaged journal exactly the lines
above the damage count; and what a line names (a segment's bytes, a snapshot) it names with its hash.
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TextIO

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from app.atomic import write_text
from app.errors import UsageMistake
from app.record.sidecar import ChunkRecord, Config, ModelRecord

Format = Literal[3]
FORMAT: Format = 3
_UNHASHED = 2
"""The format before: the same lines, hashes of chunks and snapshots alone. It can still be gone on with."""
LeftOut = Literal["metadata", "subtitles", "sidecar"]
KEPT = 2
"""Snapshots that stay: should the last one be damaged, the one before it still is there."""


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Header(_Line):
    """What is being rendered, and with what: a film goes on only with the same.

    `film` is a name that the growing film carries too, so that neither can be taken for another's; `left_out` is what
    was asked not to be told of the film, `audio` its sound with the sha256 of that file, `report` where a report goes,
    `video` where the video lies that it is made of, `beginning` the file that it begins with.
    """

    format: Literal[2, 3]
    film: str = ""
    left_out: tuple[LeftOut, ...] = ()
    audio: str | None = None
    audio_sha256: str | None = None
    report: str | None = None
    video: str | None = None
    beginning: str | None = None
    seed: int
    config: Config
    model: ModelRecord
    versions: dict[str, str]
    machine: dict[str, str | int]


class Segment(_Line):
    """Where a segment begins: its first chunk, frames and bytes of the film before it, and the stream's snapshot.

    `sha256` is of the snapshot's file, `film_sha256` of the film's bytes from the segment before (or the film's
    beginning) up to here. The first segment begins with a new stream and is not noted.
    """

    chunk: int
    frames: int
    bytes: int
    snapshot: str | None = None
    sha256: str | None = None
    film_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RenderHistory:
    """What a journal tells of a render that did not finish.

    `expected` are all chunks that were ever made, those among them that a resume has to make again: a film goes on
    only as long as they come out as before, however often it is killed meanwhile. `damage` is a sentence on where the
    journal stops to be what was written, or "".
    """

    header: Header
    segments: tuple[Segment, ...]
    chunks: tuple[ChunkRecord, ...]
    expected: tuple[ChunkRecord, ...]
    damage: str = ""

    @property
    def hashed(self) -> bool:
        """Whether lines and segments carry hashes; the version before had none."""
        return self.header.format == FORMAT


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
        self._chain = ""
        self._kept: list[str] = []
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

    def begin(self, header: Header) -> Header:
        """Start a film from its first frame, and return the header with the film's name in it."""
        named = header.model_copy(update={"film": secrets.token_hex(16)})
        self._restart([("begun", named)])
        for snapshot in self.snapshots():
            snapshot.unlink()
        return named

    def read(self) -> RenderHistory | None:
        """What was done before, None if there is no journal with a whole line in it.

        Raises:
            UsageMistake: its first line is damaged, or another version of Rivulet wrote it.
        """
        if not self.path.is_file():
            return None
        # A kill may cut the last line; what is not followed by a line break does not count.
        lines = self.path.read_bytes().split(b"\n")[:-1]
        if not lines:
            return None
        unhashed = _unhashed(lines[0])
        events: list[tuple[str, BaseModel]] = []
        damage = chain = ""
        for number, line in enumerate(lines, 1):
            if unhashed:
                body = line
            elif (opened := _unseal(line, chain)) is not None:
                body, chain = opened
            elif number == 1:
                raise _refusal(self.path, "line 1")
            else:
                damage = f"{self.path} is damaged from line {number} of {len(lines)} on; what it noted there is lost."
                break
            events.append(_event(self.path, number, body))
        (kind, first), *rest = events
        if kind != "begun" or not isinstance(first, Header) or first.format != (_UNHASHED if unhashed else FORMAT):
            raise _refusal(self.path, "line 1")
        chunks = tuple(event for kind, event in rest if kind == "chunk" and isinstance(event, ChunkRecord))
        for number, chunk in enumerate(chunks):
            if chunk.index != number:
                raise _refusal(self.path, f"chunk {number} is not where it belongs")
        before = [event for kind, event in rest if kind == "expected" and isinstance(event, ChunkRecord)]
        expected = {event.index: event for event in (*before, *chunks)}
        segments = tuple(event for _, event in rest if isinstance(event, Segment))
        return RenderHistory(first, segments, chunks, tuple(expected.values()), damage)

    def go_on(self, history: RenderHistory, segments: Sequence[Segment], header: Header) -> Header:
        """Forget everything from the last of these segments on, in one rename, and write behind it.

        Without segments the film begins again, and has to become what it was. Returns the header with the film's name.
        """
        begin = segments[-1].chunk if segments else 0
        header = header.model_copy(update={"film": history.header.film or secrets.token_hex(16)})
        at = {segment.chunk: segment for segment in segments}
        kept: list[tuple[str, BaseModel]] = [("begun", header)]
        for index in range(begin + 1):
            if index in at:
                kept.append(("segment", at[index]))
            if index < begin:
                kept.append(("chunk", history.chunks[index]))
        kept += [("expected", chunk) for chunk in history.expected if chunk.index >= begin]
        self._restart(kept)
        self._kept = [segment.snapshot for segment in segments if segment.snapshot is not None]
        return header

    def chunk(self, record: ChunkRecord) -> None:
        """Note a chunk whose frames are in the film."""
        self._write("chunk", record)

    def segment(self, segment: Segment) -> None:
        """Note where a segment begins, safe from a power cut, and drop the snapshots that are no longer needed."""
        self._write("segment", segment)
        assert self._file is not None
        os.fsync(self._file.fileno())
        if segment.snapshot is None:
            return
        self._kept = [*self._kept, segment.snapshot][-KEPT:]
        # Those of later chunks are from before something was damaged: made again, they are replaced.
        for snapshot in self.snapshots():
            if snapshot.name < self._kept[0]:
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
        history = self.read()
        return [] if history is None else list(history.chunks)

    def remove(self) -> None:
        """The film is whole: nothing of this is needed any more."""
        if self._file is not None:
            self._file.close()
            self._file = None
        for file in (*self.snapshots(), self.path):
            file.unlink(missing_ok=True)

    def _restart(self, records: Iterable[tuple[str, BaseModel]]) -> None:
        """Begin the file with these lines, or leave it as it was."""
        lines: list[str] = []
        chain = ""
        for kind, record in records:
            line, chain = _seal(kind, record, chain)
            lines.append(line)
        if self._file is not None:
            self._file.close()
        write_text(self.path, "".join(lines))
        self._chain = chain
        self._file = self.path.open("a", encoding="utf-8", newline="\n")

    def _write(self, kind: str, record: BaseModel) -> None:
        assert self._file is not None
        line, self._chain = _seal(kind, record, self._chain)
        self._file.write(line)
        self._file.flush()

    def _remove(self) -> None:
        for file in self.folder.glob(".*.tmp"):
            file.unlink()
        (self.folder / "lock").unlink(missing_ok=True)
        with suppress(OSError):  # somebody put a file of their own there
            self.folder.rmdir()


_SEALED = re.compile(rb'(\{.*\}),"chain":"([0-9a-f]{64})"\}', re.DOTALL)
_KINDS: dict[str, type[BaseModel]] = {
    "begun": Header,
    "segment": Segment,
    "chunk": ChunkRecord,
    "expected": ChunkRecord,
}


def _seal(kind: str, record: BaseModel, chain: str) -> tuple[str, str]:
    """A line that hangs on the one before, and the hash that the next one hangs on."""
    body = json.dumps({kind: record.model_dump(mode="json")}, separators=(",", ":"))
    chain = hashlib.sha256((chain + body).encode()).hexdigest()
    return f'{body[:-1]},"chain":"{chain}"}}\n', chain


def _unseal(line: bytes, chain: str) -> tuple[bytes, str] | None:
    """What `_seal` was given, and its hash; None where they do not agree."""
    found = _SEALED.fullmatch(line)
    if found is None:
        return None
    body, noted = found[1] + b"}", found[2].decode()
    return (body, noted) if hashlib.sha256(chain.encode() + body).hexdigest() == noted else None


def _unhashed(line: bytes) -> bool:
    """Whether a first line is of the format before."""
    with suppress(ValueError, KeyError, TypeError):
        return json.loads(line)["begun"]["format"] == _UNHASHED
    return False


def _event(path: Path, number: int, line: bytes) -> tuple[str, BaseModel]:
    try:
        ((kind, data),) = json.loads(line).items()
        return kind, _KINDS[kind].model_validate(data)
    except (ValueError, KeyError, AttributeError, ValidationError):
        raise _refusal(path, f"line {number}") from None


def _refusal(path: Path, where: str) -> UsageMistake:
    return UsageMistake(
        f"{path}, {where}: another version of Rivulet wrote this, or it is damaged. Nothing has been changed. "
        "Add --overwrite to start the film over."
    )
