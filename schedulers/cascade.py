"""Several chunks on their way at once over clean memory: a chunk begins on half-denoised keys of the one before.

Block Cascading (arXiv 2511.20426), which needs no training: in every tick each chunk in flight takes one pass, and sees
of the chunks before it what these left behind in the tick before, the keys of a noise level, or clean ones where they
have had their clean pass. So the passes of a tick need nothing of each other and may run on devices of their own. It
is an approximation of one chunk after the other, which is its depth of 1, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cache.types import Deps, Pass, Row, Step, View
from schedulers.serial import check_levels, check_step


@dataclass(frozen=True, slots=True)
class Cascade:
    """`depth` chunks in flight, begun at even distances; `levels` and `step` as in `Serial`, whose clean pass it has.

    With N levels a chunk has N + 1 passes, and chunk k of a scene begins in tick ceil(k (N + 1) / depth). A pass is
    remembered when a later chunk is there to see it, so at a depth of 1 only the clean one is. The youngest chunk's
    pass comes first in a tick, so that one process, too, runs all of them on the keys of the tick before.
    """

    levels: tuple[float, ...]
    chunk: int = 3
    step: Step = "renoise"
    clean_level: float = 0.0
    depth: int = 2

    def __post_init__(self) -> None:
        check_levels(self.levels)
        check_step(self.step)
        if self.chunk < 1:
            raise ValueError(f"a chunk has at least one latent frame, got {self.chunk}")
        if not 1 <= self.depth <= len(self.levels) + 1:
            raise ValueError(
                f"a chunk of {len(self.levels)} steps has {len(self.levels) + 1} passes, and no more chunks can be on "
                f"their way at once than that: give cascade 1 to {len(self.levels) + 1}, or more steps"
            )

    @property
    def needs(self) -> frozenset[Deps]:
        return frozenset({"hybrid"})

    @property
    def lanes(self) -> int:
        return 1

    @property
    def width(self) -> int:
        return self.chunk

    def entering(self, view: View) -> range:
        return range(0)  # chunks wait for each other, and a video does not

    def passes(self, view: View) -> Sequence[Pass]:
        flight, last, out = self._in_flight(view), len(self.levels), list[Pass]()
        while True:
            start = flight[-1][0].stop if flight else view.cur
            if not flight or flight[-1][1] >= self._distance(start, view):
                flight.append((range(start, start + self.chunk), 0))
            for frames, stage in reversed(flight):
                seen = stage + 1 >= self._distance(frames.stop, view)  # the next chunk is there in the next tick
                out.append(self._clean(view, frames) if stage == last else self._denoise(view, frames, stage, seen))
            if flight[0][1] == last:
                return out
            flight = [(frames, stage + 1) for frames, stage in flight]

    def _in_flight(self, view: View) -> list[tuple[range, int]]:
        """Chunks on their way and how many passes each has had, oldest first."""
        starts = range(view.cur, view.cur + len(view.levels), self.chunk)
        stages = [self.levels.index(level) if level else len(self.levels) for level in view.levels[:: self.chunk]]
        return [(range(start, start + self.chunk), stage) for start, stage in zip(starts, stages, strict=True)]

    def _distance(self, start: int, view: View) -> int:
        """How many ticks the chunk with this first frame begins after the one before."""
        number, passes = (start - view.scene) // self.chunk, len(self.levels) + 1
        return -(-number * passes // self.depth) + (number - 1) * passes // -self.depth

    def _denoise(self, view: View, frames: range, stage: int, seen: bool) -> Pass:
        to = self.levels[stage + 1] if stage + 1 < len(self.levels) else None
        row = Row(
            lane=0,
            frames=frames,
            levels=(self.levels[stage],) * len(frames),
            to=(to,) * len(frames),
            step="none" if to is None else self.step,
            source="noisy",
            text=view.text,
            commit=frames if seen else range(0),
        )
        return Pass("denoise", (row,))

    def _clean(self, view: View, frames: range) -> Pass:
        count = len(frames)
        levels, to = (self.clean_level,) * count, (None,) * count
        row = Row(0, frames, levels, to, "none", "noisy", view.text, commit=frames)
        return Pass("clean", (row,), leave=frames)
