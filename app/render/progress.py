"""Progress of a render: one line a chunk, coloured in a terminal, plain everywhere else."""

import time
from collections import deque

from rich.console import Console
from rich.text import Text

from app.errors import printable, shorten
from app.record.sidecar import ChunkRecord, one_line
from app.script.timeline import Timecode

_RECENT = 8
"""Chunks over which the shown speed is averaged: long enough to be steady, short enough to show a slow-down."""


def clock(seconds: float) -> str:
    """Format film time as mm:ss.t, or h:mm:ss.t from an hour up."""
    tenths = int(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{minutes:02d}:{rest / 10:04.1f}"
    return f"{hours}:{text}" if hours else text


def span(seconds: float) -> str:
    """Format a waiting time as 0m12s, or 1h02m from an hour up."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s"


class Progress:
    """Tells of each chunk as it is finished and keeps the times that takes.

    Args:
        console: where the lines go.
        chunks: of the whole film.
        frames: of the whole film.
        done: frames that were there before, in a film that goes on.
        as_json: lines for programs instead of people.
    """

    def __init__(self, console: Console, *, chunks: int, frames: int, done: int = 0, as_json: bool = False) -> None:
        self.console = console
        self._chunks = chunks
        self._frames = frames
        self._done = done
        self._as_json = as_json
        self._recent: deque[tuple[float, int]] = deque([(time.perf_counter(), done)], maxlen=_RECENT + 1)

    def chunk(self, timecode: Timecode, record: ChunkRecord) -> None:
        """Print the line of the chunk that begins at `timecode`."""
        self._done += record.shown
        now = time.perf_counter()
        self._recent.append((now, self._done))
        since, before = self._recent[0]
        fps = (self._done - before) / max(now - since, 1e-9)
        eta = (self._frames - self._done) / fps
        if self._as_json:
            told = {
                "event": "chunk",
                "chunk": timecode.chunk,
                "chunks": self._chunks,
                "second": timecode.second,
                "frame": timecode.frame,
                "latent": timecode.latent,
                "frames_done": self._done,
                "frames": self._frames,
                "fps": round(fps, 3),
                "eta_seconds": round(eta, 1),
                "memory_bytes": record.memory,
                "drift": record.drift,
                "prompt": record.prompt,
                "sha256": record.sha256,
            }
            print(one_line(told), file=self.console.file, flush=True)
            return
        width = len(str(self._chunks))
        head = f"[{timecode.chunk + 1:>{width}}/{self._chunks}]"
        facts = (
            f" {clock(timecode.second)}  frame {timecode.frame}  latent {timecode.latent}  fps {fps:.1f}  "
            f"eta {span(eta)}  mem {record.memory / 2**30:.1f}G  "
            f"drift {'-' if record.drift is None else f'{record.drift:.2f}'}  "
        )
        if self.console.is_terminal:
            room = max(12, self.console.width - len(head) - len(facts) - 3)
            line = Text.assemble((head, "bold cyan"), facts, (f'"{shorten(printable(record.prompt), room)}"', "green"))
            self.console.print(line, no_wrap=True, overflow="crop", crop=True)
        else:
            print(f'{head}{facts}"{shorten(printable(record.prompt), 40)}"', file=self.console.file, flush=True)
