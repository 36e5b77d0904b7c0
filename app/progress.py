"""What a person sees while a film is made: one line a chunk, coloured in a terminal, plain everywhere else."""

import time
from collections import deque

from rich.console import Console
from rich.text import Text

from app.errors import printable, shorten
from app.timeline import Place

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
    """Prints the line of each chunk as it is finished and keeps the times the line needs."""

    def __init__(self, console: Console, *, chunks: int, frames: int) -> None:
        self.console = console
        self._chunks = chunks
        self._frames = frames
        self._done = 0
        self._recent: deque[tuple[float, int]] = deque([(time.perf_counter(), 0)], maxlen=_RECENT + 1)

    def chunk(self, place: Place, frames: int, *, prompt: str, drift: float | None, memory: int) -> None:
        """Print the line of the chunk that begins at `place` and put `frames` frames into the film."""
        self._done += frames
        now = time.perf_counter()
        self._recent.append((now, self._done))
        since, before = self._recent[0]
        fps = (self._done - before) / max(now - since, 1e-9)
        width = len(str(self._chunks))
        head = f"[{place.chunk + 1:>{width}}/{self._chunks}]"
        facts = (
            f" {clock(place.second)}  frame {place.frame}  latent {place.latent}  fps {fps:.1f}  "
            f"eta {span((self._frames - self._done) / fps)}  mem {memory / 2**30:.1f}G  "
            f"drift {'-' if drift is None else f'{drift:.2f}'}  "
        )
        if self.console.is_terminal:
            room = max(12, self.console.width - len(head) - len(facts) - 3)
            line = Text.assemble((head, "bold cyan"), facts, (f'"{shorten(printable(prompt), room)}"', "green"))
            self.console.print(line, no_wrap=True, overflow="crop", crop=True)
        else:
            print(f'{head}{facts}"{shorten(printable(prompt), 40)}"', file=self.console.file, flush=True)
