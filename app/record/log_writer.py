"""Writer of a session log: every line in its order, and no thread that makes or shows film waits for a disk.

Lines that a disk does not take are held, up to a bound; behind that the log ends, and that is told once.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock

from app.loading.live import LiveModel
from app.record.session_log import (
    Branched,
    ChunkControls,
    Decided,
    Entered,
    Held,
    Line,
    Made,
    MadeOf,
    Recorded,
    Shown,
    Steered,
    header_of,
)
from pipelines.types import Chunk

HELD, LARGEST = 4 * 2**20, 64 * 2**20
"""Bytes of lines that wait for a disk, hours of film; and of a whole log, days of it."""


class LogWriter:
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
        # Every rewind and every new beginning adds one; the lines themselves may be damaged, and are not read for it.
        self.newest_branch = before.count(b'{"event":"branch"', 0, self._size)
        self.gap: Callable[[str], None] = lambda why: None
        self._path, self._later = path, later
        self._lock = Lock()
        self._lines: deque[bytes] = deque()
        self._held = 0
        self._asked = False
        self._left_out: int | None = None  # the first chunk that is not in the log
        if not self._size:
            self._write(header_of(model), 0)

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._path.parent

    def branch(self, branch: int, parent: int, chunk: int) -> None:
        """From this chunk on it is another film."""
        if self._left_out is not None and chunk <= self._left_out:
            self._left_out = None
        self._write(Branched(branch=branch, parent=parent, chunk=chunk), chunk)

    def controls(self, controls: ChunkControls, branch: int, chunk: int) -> None:
        """From this chunk on this holds."""
        self._write(Steered.of(controls, branch, chunk), chunk)

    def chunk(
        self, chunk: Chunk, branch: int, seconds: float, *, source: MadeOf | None = None, kept: bool = False
    ) -> None:
        """A chunk was made in so many seconds, of words or of the pictures of a source, which were `kept` or not."""
        made = Made(
            branch=branch,
            chunk=chunk.index,
            frames=(chunk.pixel.start, chunk.pixel.stop),
            sha256=chunk.sha256,
            drift=chunk.drift,
            seconds=round(seconds, 4),
            source=source,
            kept=kept,
        )
        self._write(made, chunk.index)

    def entered(self, entered: Entered) -> None:
        """Something beside words entered the chunk that is made next."""
        self._write(entered, entered.chunk)

    def decided(self, branch: int, chunk: int, kind: str, data: Mapping[str, float | str | bool]) -> None:
        """A controller decided something about a chunk of a source."""
        self._write(Decided(branch=branch, chunk=chunk, kind=kind, data=dict(data)), chunk)

    def held(self, plan: str, chunk: int) -> None:
        """From the next chunk on, `chunk`, the model is held under another memory plan."""
        self._write(Held(chunk=chunk, plan=plan), chunk)

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

    def _write(self, line: Line, chunk: int) -> None:
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
