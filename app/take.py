"""What a live film leaves behind: session.jsonl, a line an event, from which it can be made again bit for bit.

Controls count from a chunk on, never from a moment of wall time, so that is how they are written down. A rewind begins
a branch; what was on screen last is the newest branch behind what it grew from.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.errors import UsageMistake
from app.live_model import Knobs, LiveModel
from app.sidecar import ModelRecord, library_versions, machine
from pipelines.types import Chunk, Controls, Prompt, Transition

Format = Literal[1]
FORMAT: Format = 1
LOG = "session.jsonl"
HELD, LARGEST = 4 * 2**20, 64 * 2**20
"""Bytes of lines that wait for a disk, hours of film; and of a whole log, days of it."""
RecordingEnd = Literal["asked", "unwatched", "size", "disk", "slow", "over"]
"""A driver; nobody watched; it grew too long; it could not be written; not fast enough; the film ended or was left."""


@dataclass(frozen=True, slots=True)
class Moment:
    """All that decides the next chunk beside the stream's state; `seed` counts from the film's beginning."""

    prompt: Prompt
    seed: int
    transition: Transition = Transition()  # noqa: RUF009  # frozen
    guidance_scale: float | None = None
    knobs: Knobs = ()

    @property
    def controls(self) -> Controls:
        """As the stream reads it."""
        return Controls(self.prompt, self.transition, self.guidance_scale)


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Header(_Line):
    """What the film is made with."""

    event: Literal["take"] = "take"
    format: Format = FORMAT
    preset: str
    knobs: dict[str, object]
    system: dict[str, object]
    untrained: bool
    model: ModelRecord
    device: str
    threads: int
    height: int
    width: int
    fps: float
    versions: dict[str, str]
    machine: dict[str, str | int]


class Branched(_Line):
    """From `chunk` on the film is another one than that of branch `parent`; chunk 0 is a new film."""

    event: Literal["branch"] = "branch"
    branch: int
    parent: int
    chunk: int


class Steered(_Line):
    """What holds from `chunk` on, whole."""

    event: Literal["controls"] = "controls"
    branch: int
    chunk: int
    prompt: str | list[tuple[str, float]]
    transition: tuple[Literal["recache", "soft", "cut", "keep"], int]
    guidance_scale: float | None
    knobs: list[tuple[str, int | float]]
    seed: int

    @classmethod
    def of(cls, moment: Moment, branch: int, chunk: int) -> Self:
        """Write a moment down."""
        return cls(
            branch=branch,
            chunk=chunk,
            prompt=moment.prompt if isinstance(moment.prompt, str) else list(moment.prompt),
            transition=(moment.transition.kind, moment.transition.chunks),
            guidance_scale=moment.guidance_scale,
            knobs=list(moment.knobs),
            seed=moment.seed,
        )

    @property
    def moment(self) -> Moment:
        """The moment that was written down."""
        return Moment(
            prompt=self.prompt if isinstance(self.prompt, str) else tuple(self.prompt),
            seed=self.seed,
            transition=Transition(*self.transition),
            guidance_scale=self.guidance_scale,
            knobs=tuple((name, int(value) if float(value).is_integer() else value) for name, value in self.knobs),
        )


class Made(_Line):
    """A chunk: `frames` are [first, past the last] of the film, `sha256` as of `pipelines.types.Chunk`."""

    event: Literal["chunk"] = "chunk"
    branch: int
    chunk: int
    frames: tuple[int, int]
    sha256: str
    drift: float | None = None
    seconds: float


class Shown(_Line):
    """Of this chunk only the first `frames` were shown: a cut or a new branch took the place of the others."""

    event: Literal["shown"] = "shown"
    branch: int
    chunk: int
    frames: int


class Recorded(_Line):
    """A recording of what was shown ended by `chunk`: its file, its frames, and who or what ended it."""

    event: Literal["recorded"] = "recorded"
    branch: int
    chunk: int
    name: str
    frames: int
    ended: RecordingEnd


Line = Header | Branched | Steered | Made | Shown | Recorded
_EVENT: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="event")])


class TakeWriter:
    """Appends to a log without ever waiting for a disk: lines are kept until `flush` has written them.

    A disk that is full costs no line as long as no more than HELD bytes wait. What comes after that, or after a log
    of LARGEST bytes, is left out, until a branch begins before the gap.

    Args:
        path: a log that is there already goes on, behind its last whole line.
        model: what the film is made with.
        later: has something done soon by a thread that may wait for the disk; None: lines are written at once.
        new: there is no log yet; nothing is read.

    Attributes:
        newest_branch: the highest number of a branch in it.
        gap: called, once a gap, with why lines are left out.
    """

    def __init__(
        self,
        path: Path,
        model: LiveModel,
        later: Callable[[Callable[[], None]], object] | None = None,
        *,
        new: bool = False,
    ) -> None:
        before = path.read_bytes() if not new and path.exists() else b""
        self._size = before.rfind(b"\n") + 1
        if self._size < len(before):  # a kill has cut the last line
            os.truncate(path, self._size)
        found = before.rfind(b'{"event":"branch"', 0, self._size)
        self.newest_branch = json.loads(before[found : before.index(b"\n", found)])["branch"] if found >= 0 else 0
        self.gap: Callable[[str], None] = lambda why: None
        self._path, self._later = path, later
        self._lock = Lock()
        self._lines: deque[bytes] = deque()
        self._held = 0
        self._asked = False
        self._left_out: int | None = None  # the first chunk that is not in the log
        if not self._size:
            self._write(header_of(model), 0)

    def branch(self, branch: int, parent: int, chunk: int) -> None:
        """From this chunk on it is another film."""
        if self._left_out is not None and chunk <= self._left_out:
            self._left_out = None
        self._write(Branched(branch=branch, parent=parent, chunk=chunk), chunk)

    def controls(self, moment: Moment, branch: int, chunk: int) -> None:
        """From this chunk on this holds."""
        self._write(Steered.of(moment, branch, chunk), chunk)

    def chunk(self, chunk: Chunk, branch: int, seconds: float) -> None:
        """A chunk was made in so many seconds."""
        made = Made(
            branch=branch,
            chunk=chunk.index,
            frames=(chunk.pixel.start, chunk.pixel.stop),
            sha256=chunk.sha256,
            drift=chunk.drift,
            seconds=round(seconds, 4),
        )
        self._write(made, chunk.index)

    def shown(self, branch: int, chunk: int, frames: int) -> None:
        """The rest of a chunk was dropped."""
        self._write(Shown(branch=branch, chunk=chunk, frames=frames), chunk)

    def recorded(self, recorded: Recorded) -> None:
        """A recording ended; on any thread."""
        self._write(recorded, recorded.chunk)

    def flush(self) -> None:
        """Write the lines that wait, all or none; where `later` has things done.

        Raises:
            OSError: they cannot be written, and wait for the next time.
        """
        with self._lock:
            self._asked = False
            lines = list(self._lines)
        if not lines:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        data = memoryview(b"".join(lines))
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            rest = data
            while rest:
                rest = rest[os.write(handle, rest) :]
        except OSError:
            os.ftruncate(handle, self._size)
            raise
        finally:
            os.close(handle)
        self._size += len(data)
        with self._lock:
            for line in lines:
                self._lines.popleft()
                self._held -= len(line)

    def _write(self, line: _Line, chunk: int) -> None:
        text = json.dumps(line.model_dump(mode="json"), separators=(",", ":"), ensure_ascii=False) + "\n"
        data = text.encode("utf-8", "replace")
        why = ""
        with self._lock:
            if self._left_out is not None:
                return
            if self._held + len(data) > HELD:
                why = "The disk takes nothing more"
            elif self._size + self._held + len(data) > LARGEST:
                why = f"The film's log has reached {LARGEST // 2**20} MiB"
            else:
                self._lines.append(data)
                self._held += len(data)
            asked, self._asked = self._asked, True
            if why:
                self._left_out = chunk
        if why:
            self.gap(f"{why}, so what is shown from now on cannot be rendered again.")
        elif self._later is None:
            self.flush()
        elif not asked:
            self._later(self._try)

    def _try(self) -> None:
        with suppress(OSError):  # the next copy of the film tries again, and tells
            self.flush()


def header_of(model: LiveModel) -> Header:
    """What the log begins with."""
    return Header(
        preset=model.preset,
        knobs=dict(model.knobs),
        system=dict(model.system),
        untrained=model.untrained,
        model=ModelRecord(name=model.name, sha256=model.checksum),
        device=model.device,
        threads=model.threads,
        height=model.height,
        width=model.width,
        fps=model.fps,
        versions=library_versions(),
        machine=machine(),
    )


@dataclass(frozen=True, slots=True)
class TakeChunk:
    """A chunk that is part of the film: what it was made under, its hash, and how many of its `count` frames, of which
    `first` is the first, were shown."""

    index: int
    moment: Moment
    sha256: str
    first: int
    count: int
    shown: int


@dataclass(frozen=True, slots=True)
class Take:
    """What was on screen last."""

    header: Header
    chunks: tuple[TakeChunk, ...]


def read_take(path: Path) -> Take:
    """Read a log: of every moment of the film the branch that was on screen last.

    Raises:
        UsageMistake: it is no such log, is damaged, or nothing was ever shown.
        OSError: it cannot be read.
    """
    return parse_take(path.read_bytes(), str(path))


def parse_take(data: bytes, source: str) -> Take:
    """What read_take does with the bytes of a log; `source` is its name, for errors."""
    header, *events = _events(data, source)
    if not isinstance(header, Header):
        raise UsageMistake(f"{source}, line 1: this is no log of a live film. Give the session.jsonl of one.")
    made: list[Made] = []
    steered: deque[Steered] = deque()
    shown: dict[tuple[int, int], int] = {}
    for event in events:
        if isinstance(event, Branched):  # what lay behind is off the screen
            while made and made[-1].chunk >= event.chunk:
                made.pop()
            while steered and steered[-1].chunk >= event.chunk:
                steered.pop()
        elif isinstance(event, Made):
            made.append(event)
        elif isinstance(event, Steered):
            steered.append(event)
        elif isinstance(event, Shown):
            shown[event.branch, event.chunk] = event.frames
    chunks: list[TakeChunk] = []
    moment: Moment | None = None
    for index, each in enumerate(made):
        while steered and steered[0].chunk <= each.chunk:
            moment = _moment(steered.popleft(), source)
        count = each.frames[1] - each.frames[0]
        visible = shown.get((each.branch, each.chunk), count)
        if each.chunk != index or moment is None or not 0 <= visible <= count:
            raise UsageMistake(f"{source}: chunk {index} of the film is missing, so it cannot be made again.")
        chunks.append(TakeChunk(index, moment, each.sha256, each.frames[0], count, visible))
    if not any(chunk.shown for chunk in chunks):
        raise UsageMistake(f"{source}: nothing was shown, so there is no film. Give the log of a film that played.")
    return Take(header, tuple(chunks))


def shots_of(take: Take) -> Iterator[tuple[int, Moment]]:
    """Where on screen, in frames of the film as it was shown, another moment begins."""
    frames, before = 0, None
    for chunk in take.chunks:
        if chunk.shown and chunk.moment != before:
            yield frames, chunk.moment
            before = chunk.moment
        frames += chunk.shown


def _moment(steered: Steered, source: str) -> Moment:
    try:
        return steered.moment
    except ValueError as error:
        raise UsageMistake(f"{source}: its chunk {steered.chunk} is damaged ({error}). Give another copy.") from None


def _events(data: bytes, source: str) -> list[Line]:
    lines = data.split(b"\n")[:-1]  # a kill may cut the last line; without a line break it does not count
    events: list[Line] = []
    for number, line in enumerate(lines, 1):
        try:
            events.append(_EVENT.validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise UsageMistake(
                f"{source}, line {number}: {first['msg'].lower()[:80]}. It is damaged, or another version of Rivulet "
                "wrote it; give one that this version wrote."
            ) from None
    if not events:
        raise UsageMistake(f"{source} is empty. Give the session.jsonl of a live film.")
    return events
