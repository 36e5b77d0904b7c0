"""Playback of a live film by a viewer: what came when, held against when it was needed.

Torch-free arithmetic over arrivals, so that what `rivulet bench serve` says of a film can be checked by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.live.frame_header import FrameHeader

BUFFER = 0.25
"""Seconds of film that a simulated viewer holds back before it plays, at first and after every underrun."""
TOLERANCE = 0.0625
"""Seconds by which a chunk may be late: a frame at 16 pictures a second, which nobody sees missing."""
Arrivals = Sequence[tuple[float, "FrameHeader"]]


@dataclass(frozen=True, slots=True)
class Playback:
    """What became of one viewer's film.

    Attributes:
        frames: that came.
        gaps: of two chunks in a row, when the later one's first frame came and how long after the other's.
        deadlines: chunks that were due after another one, and `kept` how many of them came in time.
        underruns: how often a player with BUFFER seconds in hand ran dry, and `stalled` for how many seconds in all.
        seconds: of film that came, and `lasted` in how many seconds.
    """

    frames: int
    gaps: tuple[tuple[float, float], ...]
    deadlines: int
    kept: int
    underruns: int
    stalled: float
    seconds: float
    lasted: float

    @property
    def real_time(self) -> float | None:
        """Seconds of film a second; None where too little came to say."""
        return self.seconds / self.lasted if self.lasted > 0 else None


def play(arrivals: Arrivals, chunk_frames: int, tolerance: float = TOLERANCE, buffer: float = BUFFER) -> Playback:
    """Play what arrived.

    A chunk's deadline is the moment at which the film before it has been shown, as counted from the last chunk that was
    late, or the first: after a stall the clock is set anew, as the server does. A new epoch (reset, rewind) begins
    again.

    Args:
        arrivals: seconds of any clock, and the header of each frame, in order.
        chunk_frames: pixel frames of a chunk, but the first, which has three less.
        tolerance: seconds by which a chunk may be late.
        buffer: seconds that the player holds back.
    """
    gaps: list[tuple[float, float]] = []
    deadlines = kept = underruns = 0
    stalled = seconds = lasted = 0.0
    for run in _epochs(arrivals):
        begun = list(_chunks(run, chunk_frames))
        anchor, origin = begun[0][0], begun[0][1].t
        for (before, first), (at, header) in pairwise(begun):
            if first.frame == 0 or (first.frame + 3) % chunk_frames == 0:  # who came in the middle saw a part of it
                gaps.append((at, at - before))
            deadlines += 1
            if at <= anchor + header.t - origin + tolerance:
                kept += 1
            else:
                anchor, origin = at, header.t
        clock = run[0][0] + buffer - run[0][1].t  # when film second 0 is shown
        for at, header in run:
            if at > clock + header.t:
                underruns += 1
                stalled += at + buffer - clock - header.t
                clock = at + buffer - header.t
        seconds += run[-1][1].t - run[0][1].t
        lasted += run[-1][0] - run[0][0]
    return Playback(len(arrivals), tuple(gaps), deadlines, kept, underruns, stalled, seconds, lasted)


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float | None]:
    """Median, the value that 95 % stay at or below, and the greatest; None of none."""
    ordered = sorted(values)

    def at(share: float) -> float | None:
        return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], digits) if ordered else None

    return {"p50": at(0.5), "p95": at(0.95), "max": at(1.0)}


def _epochs(arrivals: Arrivals) -> Iterator[Arrivals]:
    """Runs of frames of one epoch whose film goes forward."""
    begin = 0
    for index, ((_, before), (_, header)) in enumerate(pairwise(arrivals), 1):
        if header.epoch != before.epoch or header.frame < before.frame:
            yield arrivals[begin:index]
            begin = index
    if arrivals:
        yield arrivals[begin:]


def _chunks(run: Arrivals, chunk_frames: int) -> Iterator[tuple[float, FrameHeader]]:
    """The first frame of the run, and of every chunk that begins in it the first that came."""
    last: int | None = None
    for at, header in run:
        chunk = (header.frame + 3) // chunk_frames
        if chunk != last:
            yield at, header
            last = chunk
