"""Deadline controller: what a machine can make within the latency somebody asked for, and what has to be given up.

A chunk costs a + b * tokens seconds; both are measured while the film plays. When the frames of a chunk would be older
than they may be, passes are taken away first, then the size of the picture, then frames of the input; each comes back
after some good chunks in a row. No tensor and no clock: who calls tells it what was measured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Literal

HELD = 0.9
"""The share of a chunk's period that its work may fill, or a queue would grow without end."""

ROOM = 0.8
"""What comes back has to fit in this share of what is allowed, or it would go again with the next slow chunk."""

BAD_IN_A_ROW, GOOD_IN_A_ROW, MOST_GOOD = 2, 3, 48
"""Late chunks until something goes, chunks with room until something comes back, and the most of the latter: they
double when what came back did not last as long."""

_SAMPLES = 12

Lever = Literal["steps", "size", "rate"]
"""What can be traded, in this order."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A quality that a film can be made in.

    Attributes:
        steps: passes a chunk, 1 or more.
        size: height and width in pixels.
        rate: frames of the input taken a second.
    """

    steps: int
    size: tuple[int, int]
    rate: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What the controller decided, and why.

    Attributes:
        rung: what to make from now on.
        levers: what changed since the last choice, in the order in which it is traded; empty: nothing.
        expected: seconds from a frame's arrival to its picture, as planned.
        reached: whether that is within the latency asked for.
        said: one sentence for people.
    """

    rung: Rung
    levers: tuple[Lever, ...]
    expected: float
    reached: bool
    said: str

    def as_data(self) -> dict[str, float | str | bool]:
        """Flat, for a log."""
        height, width = self.rung.size
        return {
            "steps": self.rung.steps,
            "height": height,
            "width": width,
            "rate": self.rung.rate,
            "expected": round(self.expected, 4),
            "reached": self.reached,
            "changed": ", ".join(self.levers),
            "said": self.said,
        }


def ladder(steps: int, sizes: Sequence[tuple[int, int]], rate: float, *, slowest: float = 4.0) -> tuple[Rung, ...]:
    """Every quality from the best down: fewer steps, then smaller sizes, then half the frames again and again.

    Args:
        steps: of the best.
        sizes: height and width, the best first.
        rate: frames a second of the input.
        slowest: the least rate to go down to; at least one rung has the full rate.

    Raises:
        ValueError: no size, no step, or a rate that is none.
    """
    if steps < 1 or not sizes or not rate > 0:
        raise ValueError(f"no quality to choose from: {steps} steps, {len(sizes)} sizes, {rate:g} frames a second")
    rungs = [Rung(count, sizes[0], rate) for count in range(steps, 0, -1)]
    rungs += [Rung(1, size, rate) for size in sizes[1:]]
    while rungs[-1].rate / 2 >= slowest:
        rungs.append(replace(rungs[-1], rate=rungs[-1].rate / 2))
    return tuple(rungs)


class DeadlineController:
    """Picks a rung so that no picture is older than `latency` when it is made.

    The first frame of a chunk waits for the others, (chunk - 1) / rate; in a stream batch for a chunk in each further
    lane, a period of chunk / rate each; and for its own work. Playing it is not counted. The work also has to fit into
    a period.

    Args:
        rungs: qualities, the best first; `ladder` makes them.
        latency: seconds.
        chunk: pixel frames of a chunk.
        lanes: chunks on their way at once: the levels of a stream batch, else 1.
        patch: pixels a side of a token.

    Raises:
        ValueError: nothing to choose from, or no latency.
    """

    def __init__(self, rungs: Sequence[Rung], latency: float, *, chunk: int, lanes: int = 1, patch: int = 16) -> None:
        if not rungs or not latency > 0 or chunk < 1 or lanes < 1:
            raise ValueError(f"a latency of {latency:g} s cannot be held with {len(rungs)} qualities: give both")
        self.rungs, self.latency = tuple(rungs), latency
        self._chunk, self._lanes, self._patch = chunk, lanes, patch
        self._at = self._bad = self._good = self._since = 0
        self._needed = GOOD_IN_A_ROW
        self._rose = False
        self._seen: deque[tuple[int, float]] = deque(maxlen=_SAMPLES)

    @property
    def rung(self) -> Rung:
        """The quality in force."""
        return self.rungs[self._at]

    def tokens(self, rung: Rung) -> int:
        """That a chunk takes through the model, all passes together."""
        height, width = rung.size
        return rung.steps * (height // self._patch) * (width // self._patch) * -(-self._chunk // 4)

    @property
    def line(self) -> tuple[float, float]:
        """a and b of a + b * tokens seconds, neither below 0; where one quality was seen, all grows with the tokens."""
        if not self._seen:
            return 0.0, 0.0
        known = {tokens: median(s for t, s in self._seen if t == tokens) for tokens, _ in self._seen}
        middle, cost = fmean(known), fmean(known.values())
        spread = sum((tokens - middle) ** 2 for tokens in known)
        slope = sum((t - middle) * (s - cost) for t, s in known.items()) / spread if spread else cost / middle
        slope = min(max(slope, 0.0), cost / middle)
        return cost - slope * middle, slope

    def age(self, rung: Rung, work: float | None = None) -> float:
        """Seconds from the arrival of a chunk's first frame to its picture; the work is what was measured, if None."""
        fixed, slope = self.line
        work = fixed + slope * self.tokens(rung) if work is None else work
        return (self._chunk - 1 + (self._lanes - 1) * self._chunk) / rung.rate + work

    def decide(self, seconds: float) -> Choice:
        """After a chunk that was worked on: the quality of the next ones.

        Args:
            seconds: what the chunk took, all in all.

        Raises:
            ValueError: that is no time.
        """
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"a chunk takes a time, not {seconds} seconds")
        before, self._since = self._at, self._since + 1
        self._seen.append((self.tokens(self.rung), seconds))
        late = not self._fits(self.rung, 1.0, seconds)
        self._bad = self._bad + 1 if late else 0
        better = self.rungs[self._at - 1] if self._at and not late else None
        self._good = self._good + 1 if better is not None and self._fits(better, ROOM) else 0
        if self._bad >= BAD_IN_A_ROW:
            self._move(self._lower())
        elif self._good >= self._needed:
            self._move(self._at - 1)
        if self._rose and self._since > self._needed:
            self._rose, self._needed = False, GOOD_IN_A_ROW  # it lasted
        return self._choice(self.rungs[before])

    def _fits(self, rung: Rung, share: float, work: float | None = None) -> bool:
        fixed, slope = self.line
        work = fixed + slope * self.tokens(rung) if work is None else work
        waits = self.age(rung, 0.0)
        return work <= share * HELD * self._chunk / rung.rate and work <= share * (self.latency - waits)

    def _lower(self) -> int:
        """The next rung that fits, or where none does the one whose pictures are the least old."""
        below = range(self._at + 1, len(self.rungs))
        fits = next((number for number in below if self._fits(self.rungs[number], 1.0)), None)
        if fits is not None:
            return fits
        keeps_up = [n for n in (self._at, *below) if self._fits_period(self.rungs[n])]
        return min(keeps_up, key=lambda n: self.age(self.rungs[n])) if keeps_up else len(self.rungs) - 1

    def _fits_period(self, rung: Rung) -> bool:
        fixed, slope = self.line
        return fixed + slope * self.tokens(rung) <= HELD * self._chunk / rung.rate

    def _move(self, to: int) -> None:
        if to > self._at and self._rose:
            self._needed = min(2 * self._needed, MOST_GOOD)  # what came back did not last
        self._rose = to < self._at
        self._since = self._bad = self._good = 0
        self._at = to

    def _choice(self, before: Rung) -> Choice:
        rung, age = self.rung, self.age(self.rung)
        levers: list[Lever] = []
        if rung.steps != before.steps:
            levers.append("steps")
        if rung.size != before.size:
            levers.append("size")
        if rung.rate != before.rate:
            levers.append("rate")
        best, reached = self.rungs[0], self._fits(rung, 1.0)
        parts = [f"{rung.steps} of {best.steps} steps"] if rung.steps != best.steps else []
        parts += [f"{rung.size[1]}x{rung.size[0]}"] if rung.size != best.size else []
        parts += [f"{rung.rate:g} of {best.rate:g} frames a second"] if rung.rate != best.rate else []
        made = " at ".join(parts) if parts else "everything"
        if reached:
            said = f"{made}: a picture is {age:.2f} s old, {self.latency:.2f} s are allowed"
        else:
            waits = self.age(rung, 0.0)
            said = (
                f"{self.latency:.2f} s cannot be held on this machine: with {made} a picture is {age:.2f} s old, of "
                f"which its chunk takes {waits:.2f} s to arrive"
            )
        return Choice(rung, tuple(levers), age, reached, said)
